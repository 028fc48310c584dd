import numpy as np
import pytest

from dist_rec.data.filter.event_filter import Left
from dist_rec.data.read_lists import plain_list_bytes, read_lists
from dist_rec.data.reading import Reading
from dist_rec.data.some_rows import SomeRows
from tests.data.filter.policies import filter_by_item
from tests.data.kind_rows import kind_rows, kinds_schema, kinds_table
from tests.data.requests import make_rows, make_schema, make_table

ROWS, PICKED = kind_rows(12), np.array([7, 2, 2, 0, 5])
CHOSEN = [ROWS[row] for row in PICKED]


def test_lists_of_the_rows() -> None:
    some = SomeRows(kinds_table(ROWS), PICKED)
    found = read_lists(Reading(Left(some), kinds_schema(), 1))
    assert list(found) == ["context.tags", "candidate.related"]
    for name, lists in (
        ("context.tags", [row["tags"] for row in CHOSEN]),
        ("candidate.related", [of for row in CHOSEN for of in row["candidate.related"]]),
    ):
        assert found[name].lengths.tolist() == [len(of) for of in lists]
        assert found[name].values.tolist() == [of for each in lists for of in each]
    ids = sum(len(of.values) for of in found.values())
    assert plain_list_bytes(found) == 8 * ids + 4 * (5 + len(found["candidate.related"].lengths))


@pytest.mark.parametrize("action", ["hide", "drop"])
def test_a_filter_takes_lists_of_candidates(action: str) -> None:
    schema = kinds_schema(hidden=True)
    acting = filter_by_item(schema, dict.fromkeys(range(25), action))
    some = SomeRows(kinds_table(ROWS, schema), PICKED)
    found = read_lists(Reading(acting.left(some, schema, None), schema, None))
    requests = [row for row in CHOSEN if any(item >= 25 for item in row["candidate.item"])]
    pairs = [pair for row in requests for pair in zip(row["candidate.item"], row["candidate.related"], strict=True)]
    left = [related if item >= 25 else [] for item, related in pairs if item >= 25 or action == "hide"]
    assert found["candidate.related"].lengths.tolist() == [len(of) for of in left]
    assert found["candidate.related"].values.tolist() == [of for each in left for of in each]
    assert found["context.tags"].lengths.tolist() == [len(row["tags"]) for row in requests]


def test_no_lists() -> None:
    reading = Reading(Left(SomeRows(make_table(make_rows(3)), np.arange(3))), make_schema(), None)
    assert read_lists(reading) == {} and plain_list_bytes({}) == 0
