from itertools import chain

import numpy as np
import pytest

from dist_rec.data.survey.features import candidate_features
from tests.data.kind_rows import attribute_arrays, kind_rows, kinds_schema, kinds_store, kinds_table
from tests.data.requests import make_rows, make_schema, make_table

SCHEMA = make_schema(candidate={"ids": ["item", "kind"], "side": {"shelf": 3}, "labels": ["click"]})


def test_features_by_hand() -> None:
    row = make_rows(1)[0] | {"history.item": [4, 7, 4], "history.kind": [1, 1, 2], "history.action": [0] * 3}
    row |= {
        "history.page": [0] * 3,
        "history.time": [1, 2, 3],
        "candidate.item": [4, 7, 9],
        "candidate.kind": [1, 2, 0],
    }
    row |= {"candidate.shelf": [0, 1, 2], "candidate.click": [0, 1, 0]}
    found = candidate_features(make_table([row], SCHEMA), SCHEMA)
    assert found["times it is in history.item"].tolist() == [2, 1, 0]
    assert found["is the newest of history.item"].tolist() == [1, 0, 0]
    assert found["times it is in history.kind"].tolist() == [2, 1, 0]
    assert found["place among the candidates"].tolist() == [0, 1, 2] and found["events in history"].tolist() == [3] * 3


@pytest.mark.parametrize("events", [0, 1])
def test_without_events_no_candidate_is_among_them(events: int) -> None:
    row = make_rows(1)[0] | {name: [0] * events for name in ("history.item", "history.kind", "history.action")}
    row |= {"history.page": [0] * events, "history.time": [1] * events, "candidate.item": [4], "candidate.kind": [1]}
    row |= {"candidate.shelf": [0], "candidate.click": [0]}
    found = candidate_features(make_table([row], SCHEMA), SCHEMA)
    assert found["times it is in history.item"].tolist() == found["is the newest of history.item"].tolist() == [0]


def test_what_ids_and_lists_hold_are_features() -> None:
    rows = kind_rows(40)
    found = candidate_features(kinds_table(rows), kinds_schema(), kinds_store())
    items = list(chain(*(row["candidate.item"] for row in rows)))
    users = [row["user"] for row in rows for _ in row["candidate.item"]]
    tags = [row["tags"] for row in rows for _ in row["candidate.item"]]
    related = list(chain(*(row["candidate.related"] for row in rows)))
    arrays = attribute_arrays()
    for name, lists in {
        "context.tags": tags,
        "candidate.related": related,
        "candidate.item.genres": [arrays["item"]["genres"][item].tolist() for item in items],
    }.items():
        assert found[f"how many {name}"].tolist() == [len(of) for of in lists]
        assert found[f"the first of {name}"].tolist() == [of[0] if of else -1 for of in lists]
    for name, numbers in {
        "candidate.item.year": arrays["item"]["year"][items],
        "context.user.income": arrays["user"]["income"][users],
    }.items():
        known = ~np.isnan(numbers)
        order = np.argsort(numbers[known], kind="stable")
        positive = numbers[known][order] > 0  # of negative ones the order is turned around
        assert (np.diff(found[name][known][order][positive]) >= 0).all() and 0 < known.sum() < len(known)
        assert len(set(found[name][~known])) == 1
    assert not [name for name in found if "title" in name]  # a vector
    assert {len(values) for values in found.values()} == {len(items)}
