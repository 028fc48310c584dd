from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from benchmarks.kinds.arms import restricted
from benchmarks.kinds.movielens import ARMS, RECIPE, build_movielens, page
from benchmarks.kinds.runs import Row, config_of
from dist_rec.data.columns import one_array, ragged_values
from dist_rec.data.errors import DataError
from dist_rec.data.schema_file import load_schema

# user, item, rating, time: in the second 5 a user rates two films, in the second 6 two users rate the same one.
SECONDS = {7: 6, 8: 5}
RATINGS = [(1 + n % 3, 1 + n // 3, 1 + n % 5, 874_000_000 + SECONDS.get(n, n)) for n in range(21)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data, place = (tmp_path_factory.mktemp(name) for name in ("files", "place"))
    files = {
        "inter": [("user_id:token", "item_id:token", "rating:float", "timestamp:float"), *RATINGS],
        "user": [
            ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token"),
            *((user, 20 + user, "M", "other", "00000") for user in (1, 2, 3)),
        ],
        "item": [
            ("item_id:token", "movie_title:token_seq", "release_year:token", "class:token_seq"),
            *((item, f"Film {item}", 1990 + item if item < 7 else "V", "Drama War") for item in range(1, 8)),
        ],
    }
    for name, lines in files.items():
        text = "\n".join("\t".join(map(str, line)) for line in lines) + "\n"
        (data / f"ml-100k.{name}").write_text(text)
    return build_movielens(data, place)


def test_numbers_are_what_was_known_before(built: Path) -> None:
    found = []
    for split in ("train", "valid", "test"):
        table = pq.read_table(built / split)
        items, seen = (ragged_values(table, f"candidate.{name}").values for name in ("item", "seen"))
        ages = one_array(table, "age").to_pylist()
        times = one_array(table, "time").to_pylist()
        lengths = ragged_values(table, "history.item").lengths
        found += list(zip(items.tolist(), times, seen.tolist(), ages, lengths.tolist()))
    wanted = []
    for user, item, _, time in RATINGS:
        before = [of for of in RATINGS if of[3] < time]
        seen, length = sum(of[1] == item for of in before), sum(of[0] == user for of in before)
        wanted.append((item, time, float(seen), 20.0 + user, length))
    assert sorted(found) == sorted(wanted)


def test_years_belong_to_films(built: Path) -> None:
    years = np.load(built / "attributes" / "item" / "year.npy")
    assert years[1:7].tolist() == [1991, 1992, 1993, 1994, 1995, 1996] and np.isnan(years[[0, 7, 8]]).all()


def test_arms_fit_the_data(built: Path) -> None:
    for arm in ARMS.values():
        restricted(load_schema(built), arm.kept)
        config_of(RECIPE, built, arm, 1)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"expected a file ml-100k\.inter"):
        build_movielens(tmp_path, tmp_path)


def test_the_page_has_every_arm_that_ran() -> None:
    nan = float("nan")
    lines = list(page([Row(name, 1, 0.7, 0.5, nan) for name in ("ids alone", "time of day")]))
    assert [line.split(" | ")[0] for line in lines[4:]] == ["| ids alone", "| time of day"]
