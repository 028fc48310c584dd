import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.common.strict import Strict
from dist_rec.data.importers import MovieLens
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.schema_file import load_schema
from dist_rec.data.validate import DataError

SPLITS = ("train", "valid", "test")


def _rows(out: Path) -> list[dict]:
    return pa.concat_tables([pq.read_table(out / split) for split in SPLITS]).to_pylist()


def _write(folder: Path, files: dict[str, list[str]], encoding: str = "utf-8") -> Path:
    folder.mkdir(exist_ok=True)
    for name, lines in files.items():
        data = "".join(f"{line}\n" for line in lines).encode(encoding)
        (folder / name).write_bytes(lzma.compress(data) if name.endswith(".xz") else data)
    return folder


def _ml_100k(folder: Path, ratings: list[str] | None = None) -> Path:
    """Users 7 and 3; user 7 rates ten movies, two of them in the same second."""
    times = [100, 110, 110, 130, 140, 150, 160, 170, 180, 190]
    rows = [f"7\t{20 + index}\t{1 + index % 5}\t{time}" for index, time in enumerate(times)]
    rows = ratings or [rows[5], *rows[:5], *rows[6:], "3\t29\t5\t500"]
    return _write(
        folder,
        {
            "ml-100k.inter.xz": ["user_id:token\titem_id:token\trating:float\ttimestamp:float", *rows],
            "ml-100k.user": [
                "user_id:token\tage\tgender\toccupation\tzip_code",
                "7\t24\tM\tnurse\t85711",
                "3\t53\tF\tnurse\t94043",
            ],
            "ml-100k.item": [
                "item_id\tmovie_title\trelease_year\tclass",
                *(f"{i}\tA\t1995\t{i % 2} x" for i in range(29, 19, -1)),
            ],
        },
    )


def test_100k(tmp_path: Path) -> None:
    summary = MovieLens(Strict())(_ml_100k(tmp_path / "src"), tmp_path / "out")
    assert summary.name == "ml-100k"
    assert summary.rows == {"train": 9, "valid": 1, "test": 1}  # 8 + 1 + 1 of user 7, and the only one of user 3
    rows = {(row["user"], row["time"], row["candidate.item"][0]): row for row in _rows(tmp_path / "out")}
    assert len(rows) == 11
    last = pq.read_table(tmp_path / "out" / "test").to_pylist()[0]
    assert (last["user"], last["gender"], last["age"], last["zip"]) == (1, 1, 0, 0)
    assert last["candidate.item"] == [9] and last["candidate.like"] == [1] and last["time"] == 190
    assert last["history.item"] == [*range(9)] and last["history.rating"] == [1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert last["history.genres"] == [0, 1, 0, 1, 0, 1, 0, 1, 0] and last["candidate.genres"] == [1]
    assert last["history.time"] == [100, 110, 110, 130, 140, 150, 160, 170, 180]
    assert rows[(0, 500, 9)]["history.item"] == []


def test_100k_rating_of_the_same_second_is_not_known(tmp_path: Path) -> None:
    MovieLens(Strict())(_ml_100k(tmp_path / "src"), tmp_path / "out")
    (row,) = [row for row in _rows(tmp_path / "out") if row["candidate.item"] == [2]]
    assert row["history.time"] == [100, 110] and row["history.rating"] == [1, 0]


def _ml_1m(folder: Path, **changes: list[str]) -> Path:
    """User 4 with five interactions, of which the ratings of all but the second are known; user 2 with six."""
    late = [f"2::{30 + index}::{1 + index % 5}::{900 + index}" for index in range(6)]
    files = {
        "interactions_all_but_last.csv": [
            *(f"4-1-2-3,{movie}-9" for movie in (31, 32, 33, 34)),
            *(f"2-1-1-1,{movie}-9" for movie in (30, 31, 32, 33, 34)),
        ],
        "interactions_last.csv.xz": ["2-1-1-1,35-9", "4-1-2-3,35-9"],
        "ratings_sample_100k.dat": [*late, "4::34::4::120", "4::31::5::100", "4::33::1::120", "4::35::3::200"],
        "users.dat": ["2::F::1::10::48067", "4::M::56::16::70072"],
    }
    _write(folder, files | changes)
    return _write(folder, {"movies.dat": [f"{i}::Amélie (1995)::Drama" for i in range(30, 36)]}, "iso-8859-1")


def test_1m(tmp_path: Path) -> None:
    summary = MovieLens(Strict())(_ml_1m(tmp_path / "src"), tmp_path / "out")
    assert summary.name == "ml-1m" and summary.rows == {"train": 8, "valid": 1, "test": 1}
    rows = _rows(tmp_path / "out")
    assert [row["time"] for row in rows] == [100, 120, 120, 200, *range(900, 906)]
    by_item = {(row["user"], row["candidate.item"][0]): row for row in rows}
    assert by_item[(1, 5)]["history.item"] == [1, 2, 3, 4] and by_item[(1, 5)]["history.rating"] == [5, 0, 1, 4]
    # 33 was rated in the same second as 34.
    assert by_item[(1, 4)]["history.item"] == [1, 2, 3] and by_item[(1, 4)]["history.rating"] == [5, 0, 0]
    assert by_item[(0, 5)]["history.item"] == [0, 1, 2, 3, 4] and by_item[(0, 5)]["history.rating"] == [1, 2, 3, 4, 5]
    assert [row["candidate.like"] for row in rows[:4]] == [[1], [0], [1], [0]]
    schema = load_schema(tmp_path / "out")
    assert (
        list(schema.feature_groups) == ["user", "profile", "item", "genres"]
        and len(schema.feature_groups["profile"]) == 4
    )
    assert not schema.sequences[0].time and schema.context[0].name == "user"


@pytest.mark.parametrize("make", [_ml_100k, _ml_1m])
def test_result_is_valid(tmp_path: Path, make) -> None:
    summary = MovieLens(Strict())(make(tmp_path / "src"), tmp_path / "out")
    assert {split.name: split.rows for split in inspect_dataset(tmp_path / "out").splits} == summary.rows


@pytest.mark.parametrize(
    ("rating", "message"),
    [
        ("7\t20\t9\t100", "line 2: expected a rating from 1 to 5, got 9"),
        ("7\t20\t4", "line 2: expected 4 fields"),
        ("7\t99\t4\t100", "line 2: expected the item_id of a line in ml-100k.item, got 99"),
        ("7\t20\t4\tsoon", "line 2: expected an integer as timestamp, got 'soon'"),
    ],
)
def test_bad_lines_100k(tmp_path: Path, rating: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"ml-100k\.inter\.xz, {message}"):
        MovieLens(Strict())(_ml_100k(tmp_path / "src", [rating]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rating_without_interaction_1m(tmp_path: Path) -> None:
    src = _ml_1m(tmp_path / "src", **{"ratings_sample_100k.dat": ["4::30::2::900"]})
    with pytest.raises(
        DataError, match=r"dat, line 1: expected a user and movie of a line in interactions_\*, got 4::30"
    ):
        MovieLens(Strict())(src, tmp_path / "out")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected ml-100k\.inter or ratings_sample_100k\.dat"):
        MovieLens(Strict())(tmp_path, tmp_path / "out")


def test_other_folders_are_kept_unless_forced(tmp_path: Path) -> None:
    src, out = _ml_100k(tmp_path / "src"), tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(DataError, match=r"did not make, with mine.*--force"):
        MovieLens(Strict())(src, out)
    assert (out / "mine").exists()
    MovieLens(Strict())(src, out, force=True)
    assert not (out / "mine").exists()
    MovieLens(Strict())(src, out)  # its own


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    src = _ml_100k(tmp_path / "place" / "src")
    (tmp_path / "link").symlink_to(src)
    for out in (src, src.parent, tmp_path / "link"):
        with pytest.raises(DataError, match="another place than the source"):
            MovieLens(Strict())(src, out, force=True)
