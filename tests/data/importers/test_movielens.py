import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.data.importers import MovieLens
from dist_rec.data.importers.built import BuiltOptions
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.schema_file import load_schema
from dist_rec.data.validate import DataError

SPLITS = ("train", "valid", "test")
RATED = [f"2::{30 + index}::{1 + index % 5}::{900 + index}" for index in range(6)]  # of user 2


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


def _numbers(out: Path, table: str) -> dict[Any, int]:
    return {row["value"]: row["id"] for row in pq.read_table(out / "_build" / f"{table}.parquet").to_pylist()}


def test_100k(tmp_path: Path) -> None:
    summary = MovieLens(BuiltOptions())(_ml_100k(tmp_path / "src"), tmp_path / "out")
    assert summary.name == "ml-100k"
    assert summary.rows == {"train": 9, "valid": 1, "test": 1}  # 8 + 1 + 1 of user 7, and the only one of user 3
    item, genres, user = (_numbers(tmp_path / "out", table) for table in ("item", "genres", "user"))
    assert set(item) == {*range(20, 28), 29}, "28 is for validation, 29 of user 3 for training"
    rows = _rows(tmp_path / "out")
    assert len({(row["user"], row["time"], row["candidate.item"][0]) for row in rows}) == 11
    last = pq.read_table(tmp_path / "out" / "test").to_pylist()[0]
    assert last["user"] == user[7] and last["user_key"] == 7 and last["zip"] == _numbers(tmp_path / "out", "zip")[85]
    assert last["candidate.item"] == [item[29]] and last["candidate.like"] == [1] and last["time"] == 190
    assert last["history.item"] == [*(item[20 + place] for place in range(8)), 0]
    assert last["history.rating"] == [1, 2, 3, 4, 5, 1, 2, 3, 4] and last["candidate.genres"] == [genres["1 x"]]
    assert last["history.genres"] == [genres[f"{place % 2} x"] for place in range(8)] + [genres["0 x"]]
    assert last["history.time"] == [100, 110, 110, 130, 140, 150, 160, 170, 180]
    assert next(row for row in rows if row["user_key"] == 3)["history.item"] == []


def test_100k_rating_of_the_same_second_is_not_known(tmp_path: Path) -> None:
    MovieLens(BuiltOptions())(_ml_100k(tmp_path / "src"), tmp_path / "out")
    rows = [row for row in _rows(tmp_path / "out") if row["time"] == 110]
    assert [(row["history.time"], row["history.rating"]) for row in rows] == [([100], [1])] * 2


def _ml_1m(folder: Path, **changes: list[str]) -> Path:
    """User 4 with five interactions, of which the ratings of all but the second are known; user 2 with six."""
    files = {
        "interactions_all_but_last.csv": [
            *(f"4-1-2-3,{movie}-9" for movie in (31, 32, 33, 34)),
            *(f"2-1-1-1,{movie}-9" for movie in (30, 31, 32, 33, 34)),
        ],
        "interactions_last.csv.xz": ["2-1-1-1,35-9", "4-1-2-3,35-9"],
        "ratings_sample_100k.dat": [*RATED, "4::34::4::120", "4::31::5::100", "4::33::1::120", "4::35::3::200"],
        "users.dat": ["2::F::1::10::48067", "4::M::56::16::70072"],
    }
    _write(folder, files | changes)
    return _write(folder, {"movies.dat": [f"{i}::Amélie (1995)::Drama" for i in range(30, 36)]}, "iso-8859-1")


def test_1m(tmp_path: Path) -> None:
    summary = MovieLens(BuiltOptions())(_ml_1m(tmp_path / "src"), tmp_path / "out")
    assert summary.name == "ml-1m" and summary.rows == {"train": 8, "valid": 1, "test": 1}
    item = _numbers(tmp_path / "out", "item")
    rows = _rows(tmp_path / "out")
    assert [row["time"] for row in rows] == [100, 120, 120, 200, *range(900, 906)]
    four = [row for row in rows if row["user_key"] == 4]
    # 32 has no rating: it was at 100 or later. 33 and 34 were rated in the same second, and do not know of each other.
    wanted = [([], []), *[([31, 32], [5, 0])] * 2, ([31, 32, 33, 34], [5, 0, 1, 4])]
    assert [(row["history.item"], row["history.rating"]) for row in four] == [
        ([item[of] for of in items], ratings) for items, ratings in wanted
    ]
    two = [row for row in rows if row["user_key"] == 2]
    assert two[5]["history.item"] == [item.get(of, 0) for of in range(30, 35)]
    assert two[5]["history.rating"] == [1, 2, 3, 4, 5]
    assert [row["candidate.like"] for row in rows[:4]] == [[1], [0], [1], [0]]
    schema = load_schema(tmp_path / "out")
    assert (
        list(schema.feature_groups) == ["user", "profile", "item", "genres"]
        and len(schema.feature_groups["profile"]) == 4
    )
    assert not schema.sequences[0].time and schema.context[0].name == "user"


def test_1m_interactions_before_the_first_rating(tmp_path: Path) -> None:
    """They are known to it, and those behind the last one to nobody."""
    MovieLens(BuiltOptions())(
        _ml_1m(tmp_path / "src", **{"ratings_sample_100k.dat": [f"4::{33 + n}::4::{n}" for n in (1, 0)] + RATED}),
        tmp_path / "out",
    )
    item = _numbers(tmp_path / "out", "item")
    four = [row for row in _rows(tmp_path / "out") if row["user_key"] == 4]
    assert [row["history.item"] for row in four] == [[item[31], item[32]], [item[31], item[32], item[33]]]


@pytest.mark.parametrize("make", [_ml_100k, _ml_1m])
def test_result_is_valid(tmp_path: Path, make) -> None:
    summary = MovieLens(BuiltOptions())(make(tmp_path / "src"), tmp_path / "out")
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
        MovieLens(BuiltOptions())(_ml_100k(tmp_path / "src", [rating]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_rating_without_interaction_1m(tmp_path: Path) -> None:
    src = _ml_1m(tmp_path / "src", **{"ratings_sample_100k.dat": ["4::30::2::900"]})
    with pytest.raises(
        DataError, match=r"dat, line 1: expected a user and movie of a line in interactions_\*, got 4::30"
    ):
        MovieLens(BuiltOptions())(src, tmp_path / "out")


def test_missing_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected ml-100k\.inter or ratings_sample_100k\.dat"):
        MovieLens(BuiltOptions())(tmp_path, tmp_path / "out")


def test_other_folders_are_kept_unless_forced(tmp_path: Path) -> None:
    src, out = _ml_100k(tmp_path / "src"), tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(DataError, match=r"did not make, with mine.*--force"):
        MovieLens(BuiltOptions())(src, out)
    assert (out / "mine").exists()
    MovieLens(BuiltOptions())(src, out, force=True)
    assert not (out / "mine").exists()
    MovieLens(BuiltOptions())(src, out)  # its own


def test_the_source_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    src = _ml_100k(tmp_path / "place" / "src")
    (tmp_path / "link").symlink_to(src)
    for out in (src, src.parent, tmp_path / "link"):
        with pytest.raises(DataError, match="another place than the source"):
            MovieLens(BuiltOptions())(src, out, force=True)
