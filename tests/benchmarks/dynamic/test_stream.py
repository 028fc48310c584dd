from itertools import pairwise

import numpy as np

from benchmarks.dynamic.stream import BASE, CLASSES, StreamConfig, contents, ids_of, schema_of, windows
from dist_rec.data.columns import ragged_values
from dist_rec.data.validate import validate

SMALL = StreamConfig(windows=5, requests=400, active=100)


def _items(kind: str) -> list[set[int]]:
    found = []
    for table in windows(SMALL, schema_of(SMALL.items, kind)):
        validate(table, schema_of(SMALL.items, kind), file="stream", row_group=0)
        owners = ("history.item", "candidate.item")
        found.append({item for name in owners for item in ragged_values(table, name).values.tolist()})
    return found


def test_a_share_of_the_items_is_new_in_every_window() -> None:
    seen = _items("range")
    assert SMALL.items == 100 + 4 * 30
    for window, (before, now) in enumerate(pairwise(seen)):
        born = {item for item in now if item >= 100 + 30 * window}
        assert born == now - set(range(100 + 30 * window)) and 20 <= len(born) <= 30
        assert len(before & now) > 50
    assert max(map(max, seen)) < SMALL.items


def test_open_tables_have_other_ids_of_the_same_items() -> None:
    numbers, raw = _items("range"), _items("hashed")
    assert [len(of) for of in numbers] == [len(of) for of in raw]
    assert min(map(min, raw)) < -(2**60), "all 64 bits"


def test_content_tells_of_the_items_whatever_their_ids() -> None:
    found = contents(SMALL)
    assert found.shape == (SMALL.items, CLASSES + 1)
    table = next(windows(SMALL, schema_of(SMALL.items, "range")))
    shown, truth = (ragged_values(table, f"candidate.{name}").values for name in ("item", "click.oracle"))
    logit = np.log(truth / (1 - truth)) - BASE
    assert np.corrcoef(found[shown, -1], logit)[0, 1] > 0.5
    raw = ids_of(np.arange(SMALL.items), schema_of(9, "hashed"))
    assert len(np.unique(raw)) == SMALL.items and raw.dtype == np.int64


def test_labels_are_drawn_with_their_truth() -> None:
    tables = list(windows(SMALL, schema_of(SMALL.items, "range")))
    clicks, truth = (
        np.concatenate([ragged_values(table, f"candidate.{name}").values for table in tables])
        for name in ("click", "click.oracle")
    )
    assert abs(clicks.mean() - truth.mean()) < 0.01 and truth.std() > 0.15
