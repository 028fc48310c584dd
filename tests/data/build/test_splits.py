import json
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


def by_column(train: list[str] | None = None, **changes: Any) -> dict[str, Any]:
    return config(split={"by": "column", "column": "folder"} | ({"train": train} if train else {}), **changes)


def in_folders(rows: list[dict[str, Any]], *folders: str) -> list[dict[str, Any]]:
    return [{**row, "folder": folders[n % len(folders)]} for n, row in enumerate(rows)]


def test_by_a_column(tmp_path: Path) -> None:
    rows = in_folders(shown(3, 4), "a-1", "test", "train")
    out = build(tmp_path / "x", by_column(), EVENTS, rows)
    found = {name: pq.read_table(out / name).column("user_key").to_pylist() for name in ("train", "test", "a-1")}
    assert found == {"train": [2] * 4, "test": [1] * 4, "a-1": [0] * 4}
    report = json.loads((out / "_build" / "report.json").read_text())
    assert report["times"]["folders"] == ["train", "test", "a-1"] and report["times"]["fitted"] == ["train"]


def test_training_knows_a_user_until_the_first_request_of_another_folder(tmp_path: Path) -> None:
    """User 1 is only in the test, user 2 only in training, user 3 in both."""
    events = [
        {"user": user, "item": 10 * user + at // 10, "time": START + at, "kind": "a", "order": 0}
        for user in (1, 2, 3)
        for at in (0, 10, 20)
    ]
    asked = [(1, 5, "test"), (2, 5, "fold1"), (3, 5, "fold1"), (3, 15, "test"), (3, 25, "fold1")]
    rows = [
        {"user": user, "item": 99, "time": START + at, "page": at, "place": 0, "click": 0, "folder": folder}
        for user, at, folder in asked
    ]
    out = build(tmp_path / "x", by_column(["fold1"]), events, rows)
    assert set(pq.read_table(out / "_build" / "item.parquet").column("value").to_pylist()) == {20, 21, 22, 30, 31, 99}
    assert yaml.safe_load((out / "recipe.yaml").read_text())["data"]["train"] == ["fold1"]


def test_numbers_are_fitted_on_the_folders_that_are_trained_on(tmp_path: Path) -> None:
    rows = [{**row, "price": 1 + n % 3} for n, row in enumerate(in_folders(shown(3, 4), "a", "b", "c"))]
    tree = by_column(["b", "c"], requests={"numbers": {"price": {"column": "price", "encoding": "value"}}})
    out = build(tmp_path / "x", tree, EVENTS, rows)
    fitted = yaml.safe_load((out / "schema.yaml").read_text())["candidate"]["numbers"]["price"]["fitted"]
    assert fitted["mean"] == 2.5


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (
            ("train", "../up"),
            r"shown\.csv, record 3, column folder \(split\.column\): expected a name of a folder, .*, got",
        ),
        (("train", "Attributes"), "and not sequences or attributes, got 'Attributes'"),
        (("train", ""), r"record 3, column folder \(split\.column\): expected a name of a folder, .*, got nothing"),
        (("train", "Train"), "expected names of folders that differ in more than capitals"),
        (("a", "b"), "expected requests for train, got none of 12"),
    ],
)
def test_folders_that_cannot_be(tmp_path: Path, folders: tuple[str, ...], message: str) -> None:
    with pytest.raises(DataError, match=message):
        build(tmp_path / "x", by_column(), EVENTS, in_folders(shown(3, 4), *folders))


def test_rows_of_one_request_are_in_one_folder(tmp_path: Path) -> None:
    rows = in_folders([ANCHORS[0]] * 2, "train", "test")
    message = (
        "expected one folder for all rows of a request, got test and train in that of user 9 at 2023-11-14 22:13:21"
    )
    with pytest.raises(DataError, match=message):
        build(tmp_path / "x", by_column(), EVENTS, rows)


def test_the_moment_of_a_label_at_every_event_is_that_of_the_last_one(tmp_path: Path) -> None:
    """So that what is trained on ended before validation starts."""
    rows = [{**row, "user": row["user"] % 9} for row in ANCHORS] + [
        {**ANCHORS[0], "user": 1},
        {**ANCHORS[1], "user": 2},
        {**ANCHORS[0], "user": 2},
    ]
    requests = {"visible_events": True, "labels": {"click": "click"}}
    out = build(tmp_path / "x", config(requests=requests, events={"times": False}), EVENTS, rows)
    found = {split: pq.read_table(out / split).column("user_key").to_pylist() for split in ("train", "valid", "test")}
    assert found == {"train": [1], "valid": [2], "test": [0]}
