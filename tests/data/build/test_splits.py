from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from dist_rec.data.build.splits import microseconds, moment
from dist_rec.data.errors import DataError
from tests.data.build.small import ANCHORS, START, build, config

EVENTS = [{"user": 1, "item": 1, "time": START, "kind": "a", "order": 0}]


def shown(users: int, each: int) -> list[dict[str, Any]]:
    """Rows of users in turn, one second apart."""
    return [
        {"user": n % users, "item": n, "time": START + n, "page": n, "place": 0, "click": 0}
        for n in range(users * each)
    ]


def times(out: Path) -> dict[str, list[tuple[int, int]]]:
    """User and time of every request."""
    found = {}
    for split in ("train", "valid", "test"):
        table = pq.read_table(out / split)
        found[split] = list(zip(table.column("user_key").to_pylist(), table.column("time").to_pylist(), strict=True))
    return found


def test_by_shares_of_time(tmp_path: Path) -> None:
    tree = config(split={"valid": 0.2, "test": 0.1})
    found = times(build(tmp_path / "x", tree, EVENTS, shown(5, 4)))
    assert {split: [time - START for _, time in rows] for split, rows in found.items()} == {
        "train": list(range(14)),
        "valid": [14, 15, 16, 17],
        "test": [18, 19],
    }


def test_requests_of_one_moment_are_in_one_split(tmp_path: Path) -> None:
    rows = [{**row, "time": START + row["time"] // 7 * 7 - START // 7 * 7} for row in shown(5, 4)]
    found = times(build(tmp_path / "x", config(split={"valid": 0.3, "test": 0.3}), EVENTS, rows))
    assert not {time for _, time in found["train"]} & {time for _, time in found["valid"] + found["test"]}


def test_by_user(tmp_path: Path) -> None:
    tree = config(split={"by": "user", "valid": 0.3, "test": 0.3})
    found = times(build(tmp_path / "x", tree, EVENTS, shown(30, 2)))
    users = {split: {user for user, _ in rows} for split, rows in found.items()}
    assert (
        not users["train"] & users["valid"]
        and not users["train"] & users["test"]
        and not users["valid"] & users["test"]
    )
    assert all(len(rows) == 2 * len(users[split]) for split, rows in found.items())
    other = times(build(tmp_path / "y", config(split={**tree["split"], "seed": 1}), EVENTS, shown(30, 2)))
    assert other != found


def test_the_last_of_every_user(tmp_path: Path) -> None:
    found = times(build(tmp_path / "x", config(split={"by": "last"}), EVENTS, [*shown(2, 4), ANCHORS[0]]))
    assert {split: [(user, time - START) for user, time in rows] for split, rows in found.items()} == {
        "train": [(0, 0), (1, 1), (9, 1), (0, 2), (1, 3)],
        "valid": [(0, 4), (1, 5)],
        "test": [(0, 6), (1, 7)],
    }


def windows(split: dict[str, Any]) -> dict[str, Any]:
    return config(split={"by": "windows"} | split, requests={"labels": {"click": "click"}})


def test_windows_of_days_where_the_clocks_change(tmp_path: Path) -> None:
    """The third of November of 2024 has 25 hours in New York."""
    first = microseconds("2024-11-01T00:00", "America/New_York", "here") // 1_000_000
    rows = [{**ANCHORS[0], "time": first + hour * 3600, "item": hour} for hour in range(6 * 24 + 1)]
    out = build(tmp_path / "x", windows({"every": "1d", "zone": "America/New_York"}), EVENTS, rows)
    names = sorted(path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert names == [f"2024-11-0{day}" for day in range(1, 7)]
    assert [pq.read_table(out / name).num_rows for name in names] == [24, 24, 25, 24, 24, 24]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"every": "1w"}, "expected at least two windows of 3 requests, got one"),
        ({"every": 1, "first": 1}, "expected at most 10000 windows, got 90001; requests are from 2023"),
    ],
)
def test_windows_that_cannot_be(tmp_path: Path, split: dict[str, Any], message: str) -> None:
    rows = ANCHORS if split["every"] == "1w" else [ANCHORS[0], {**ANCHORS[0], "time": START + 90_001}]
    with pytest.raises(DataError, match=message):
        build(tmp_path / "x", windows(split), EVENTS, rows)


def test_by_windows_of_days(tmp_path: Path) -> None:
    """Days begin at midnight of the zone, and ids are numbered by what the first window knew."""
    day = 86_400
    rows = [{**ANCHORS[0], "time": START + n * day // 2, "item": n} for n in range(7)]
    out = build(tmp_path / "x", windows({"every": "1d", "zone": "America/New_York"}), EVENTS, rows)
    names = sorted(path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert names == ["2023-11-14", "2023-11-15", "2023-11-16", "2023-11-17"]
    assert [pq.read_table(out / name).num_rows for name in names] == [1, 2, 2, 2]
    assert pq.read_table(out / names[1]).column("candidate.item").to_pylist() == [[0], [0]], "not known then"
    assert yaml.safe_load((out / "recipe.yaml").read_text())["data"]["windows"] == names


def test_a_longer_first_window(tmp_path: Path) -> None:
    rows = [{**ANCHORS[0], "time": START + n * 3600, "item": n} for n in range(9)]
    tree = windows({"every": "2h", "first": "5h"})
    out = build(tmp_path / "x", tree, EVENTS, rows)
    names = sorted(path.name for path in out.iterdir() if path.is_dir() and not path.name.startswith("_"))
    assert names == ["2023-11-14T220000Z", "2023-11-15T030000Z", "2023-11-15T050000Z"]
    assert [pq.read_table(out / name).num_rows for name in names] == [5, 2, 2]


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (
            {"valid": "2033-01-01", "test": "2034-01-01"},
            "expected requests for valid, got none of 3; requests are from 2023",
        ),
        (
            {"valid": "2024-01-01", "test": "2023-01-01"},
            "split: expected valid before test, got 2024-01-01 and 2023-01-01",
        ),
        ({"valid": "soon", "test": "later"}, "split: expected a date or time such as 2024-05-01 .*, got 'soon'"),
        ({"valid": "2023-01-01", "test": "2024-01-01", "zone": "Mars/X"}, "expected a zone such as Europe/Berlin"),
    ],
)
def test_splits_that_cannot_be(tmp_path: Path, split: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(tmp_path / "x", config(split=split), EVENTS, ANCHORS)


def test_moments() -> None:
    assert microseconds("2024-03-09", "UTC", "here") == 1_709_942_400_000_000
    assert microseconds("2024-03-09T00:00", "America/New_York", "here") == 1_709_960_400_000_000
    assert microseconds("2024-03-09T00:00+02:00", "America/New_York", "here") == 1_709_935_200_000_000
    assert moment(1_709_942_400_000_000) == "2024-03-09 00:00:00 UTC" and moment(-1) == "1969-12-31 23:59:59 UTC"
    assert moment(2**62) == "4611686018427 seconds after 1970"
