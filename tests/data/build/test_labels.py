from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from tests.data.build.small import ANCHORS, START, build, config

AT = START + 1  # of the first request


def labels(folder: Path, events: list[dict[str, Any]], **later: Any) -> tuple[list[int], list[int]]:
    """Label and delay of the candidates of the first request."""
    tree = config()
    tree["requests"]["labels"]["bought"] |= later
    rows = [{"user": 9, "kind": "a", "order": 0} | event for event in events]
    shown = [*ANCHORS, {**ANCHORS[0], "item": 5, "place": 1}]
    out = build(folder / "x", tree, rows, shown)
    found = pq.read_table(out / "train").to_pydict()
    assert yaml.safe_load((out / "schema.yaml").read_text())["candidate"]["delayed"] == {"bought": {"horizon": 10}}
    return found["candidate.bought"][0], found["candidate.bought.delay"][0]


@pytest.mark.parametrize(
    ("events", "wanted"),
    [
        ([{"item": 0, "time": AT - 1}], ([0, 0], [0, 0])),
        ([{"item": 0, "time": AT}], ([1, 0], [0, 0])),
        ([{"item": 5, "time": AT + 10}], ([0, 1], [0, 10])),
        ([{"item": 5, "time": AT + 11}], ([0, 0], [0, 0])),
        ([{"item": 5, "time": AT + 7}, {"item": 5, "time": AT + 3}, {"item": 0, "time": AT + 9}], ([1, 1], [9, 3])),
        ([{"item": 5, "time": AT + 2, "user": 8}], ([0, 0], [0, 0])),
    ],
    ids=["before", "at once", "in time", "too late", "the first counts", "another user"],
)
def test_the_first_event_in_time_makes_a_one(tmp_path: Path, events: list[dict[str, Any]], wanted: tuple) -> None:
    assert labels(tmp_path, events) == wanted


def test_a_condition_chooses_events(tmp_path: Path) -> None:
    events = [{"item": 0, "time": AT + 1, "kind": "b"}, {"item": 0, "time": AT + 4}]
    assert labels(tmp_path, events, where="kind = 'a'") == ([1, 0], [4, 0])


def test_parts_of_a_second_are_no_sooner_than_they_were(tmp_path: Path) -> None:
    """A label of 1.2 seconds is known after 2, and one of 9.9 counts, as its horizon of 10 says."""
    events = [{"item": 0, "time": AT + 1.2}, {"item": 5, "time": AT + 9.9}]
    assert labels(tmp_path, events) == ([1, 1], [2, 10])
