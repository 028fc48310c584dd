import lzma
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dist_rec.config import load_config
from dist_rec.data.event_store import whole, with_place
from dist_rec.data.importers import Assist
from dist_rec.data.importers.built import BuiltOptions
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.schema_file import load_schema
from dist_rec.data.validate import DataError
from dist_rec.door import check_run

STATICS_USER = "3\n70,72,70\n1,0,1\n"
# The second and third event are one answer, written once per skill.
ASSIST_USER = "5,505\n900,800,800,900\n3,1,2,3\n1,0,0,1\n"


def numbers(out: Path, table: str) -> dict[int, int]:
    return {row["value"]: row["id"] for row in pq.read_table(out / "_build" / f"{table}.parquet").to_pylist()}


def _statics(folder: Path, **folds: str) -> Path:
    folder.mkdir()
    for fold in range(1, 6):
        text = folds.get(f"fold{fold}", f"2\n{70 + fold},{71 + fold}\n0,1\n")
        (folder / f"statics_test{fold}.csv.xz").write_bytes(lzma.compress(text.encode()))
    return folder


def _assist(folder: Path, first: str = ASSIST_USER) -> Path:
    folder.mkdir()
    for fold in range(1, 6):
        (folder / f"assist2009_pid_test{fold}.csv").write_text(
            first if fold == 1 else f"{fold},50{fold}\n{700 + fold}\n1\n1\n"
        )
    return folder


def test_statics(tmp_path: Path) -> None:
    summary = Assist(BuiltOptions())(_statics(tmp_path / "src", fold2=STATICS_USER * 2), tmp_path / "out")
    assert summary.name == "statics2011" and summary.dropped == {}
    assert summary.rows == {"fold1": 1, "fold2": 2, "fold3": 1, "fold4": 1, "fold5": 1}
    assert summary.candidates["fold2"] == 6
    exercise = numbers(tmp_path / "out", "exercise")
    assert sorted(exercise) == [70, 71, 72, 73, 74, 75, 76], "those of all folds"
    first, other, again = (exercise[of] for of in (70, 72, 70))
    assert pq.read_table(tmp_path / "out" / "fold2").to_pylist()[1] == {
        "user_key": 2,
        "history.exercise": [first, other],  # the last answer is in nobody's history
        "history.correct": [1, 0],
        "candidate.exercise": [first, other, again],
        "candidate.correct": [1, 0, 1],
        "candidate.visible_events": [0, 1, 2],
    }
    schema = load_schema(tmp_path / "out")
    assert schema.feature_groups == {"exercise": ["candidate.exercise"]} and not schema.sequences[0].time
    assert schema.tables == {"exercise": 8} and schema.candidate.visible_events and schema.request.time is None


def test_assist_is_collapsed(tmp_path: Path) -> None:
    summary = Assist(BuiltOptions())(_assist(tmp_path / "src"), tmp_path / "out")
    assert summary.name == "assist2009"
    assert summary.dropped == {"events that repeat the problem of the event before": 1}
    problem, skill = (numbers(tmp_path / "out", table) for table in ("problem", "skill"))
    row = pq.read_table(tmp_path / "out" / "fold1").to_pylist()[0]
    assert row["history.problem"] == [problem[900], problem[800]]
    assert row["candidate.skill"] == [skill[3], skill[1], skill[3]], "the event of skill 2 is dropped"
    assert row["candidate.correct"] == [1, 0, 1] and row["candidate.visible_events"] == [0, 1, 2]
    assert row["history.correct"] == [1, 0]


def test_histories_once_are_the_same(tmp_path: Path) -> None:
    source = _statics(tmp_path / "src", fold2=STATICS_USER * 2)
    for histories in ("once", "copies"):
        Assist(BuiltOptions(histories=histories))(source, tmp_path / histories)
    once = whole(
        with_place(pq.read_table(tmp_path / "once" / "fold2"), tmp_path / "once"), load_schema(tmp_path / "once")
    )
    copies = pq.read_table(tmp_path / "copies" / "fold2")
    assert once.select(copies.column_names).to_pylist() == copies.to_pylist()
    check_run(load_config(tmp_path / "once" / "recipe.yaml"), None)


def test_result_is_valid_and_in_small_row_groups(tmp_path: Path) -> None:
    Assist(BuiltOptions())(_statics(tmp_path / "src", fold1=STATICS_USER * 40), tmp_path / "out")
    assert [split.rows for split in inspect_dataset(tmp_path / "out").splits] == [40, 1, 1, 1, 1]
    assert pq.ParquetFile(tmp_path / "out" / "fold1" / "part-00000.parquet").num_row_groups == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("3\n70,72\n", "line 2: expected a multiple of 3 lines"),
        (STATICS_USER + "3\n70,x,70\n1,0,1\n", "line 5: expected integers as exercise, got 'x'"),
        (STATICS_USER + "3\n70,72,70\n1,0\n", "line 6: expected 3 values of label, as many as of exercise, got 2"),
        (STATICS_USER + "3\n70,72,70\n1,0,2\n", "line 6: expected labels of 0 or 1, got 2"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"statics_test3\.csv\.xz, {message}"):
        Assist(BuiltOptions())(_statics(tmp_path / "src", fold3=text), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected assist2009_pid_test1\.csv or statics_test1\.csv"):
        Assist(BuiltOptions())(tmp_path, tmp_path / "out")
    (_statics(tmp_path / "src") / "statics_test4.csv.xz").unlink()
    with pytest.raises(DataError, match=r"expected a file statics_test4\.csv or statics_test4\.csv\.xz"):
        Assist(BuiltOptions())(tmp_path / "src", tmp_path / "out")


def test_other_folders_are_kept_unless_forced(tmp_path: Path) -> None:
    src, out = _statics(tmp_path / "src"), tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(DataError, match=r"did not make, with mine.*--force"):
        Assist(BuiltOptions())(src, out)
    assert (out / "mine").exists()
    Assist(BuiltOptions())(src, out, force=True)
    assert not (out / "mine").exists()
    Assist(BuiltOptions())(src, out)  # its own


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    src = _statics(tmp_path / "place" / "src")
    (tmp_path / "link").symlink_to(src)
    for out in (src, src.parent, tmp_path / "link"):
        with pytest.raises(DataError, match="another place than the source"):
            Assist(BuiltOptions())(src, out, force=True)
