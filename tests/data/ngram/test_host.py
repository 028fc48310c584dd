"""Ids from NumPy are those of the operator, to the bit."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.collate import collate
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.ngram.host import candidate_ngram_ids, host_ngram_ids
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.ngram.schemas import ngram_schema
from tests.data.requests import make_rows, make_table
from tests.kernels.ngram_ids.cases import Case, cases


@given(cases())
@settings(max_examples=150, deadline=None)
def test_equal_to_the_operator(case: Case) -> None:
    made = host_ngram_ids(
        np.array(case.values, np.int64),
        np.array(case.lengths, np.int32),
        case.spec,
        hidden=case.hidden,
        times=np.array(case.times, np.int32),
    )
    assert made.dtype == np.int64 and torch.equal(torch.from_numpy(made), case.ids("reference"))


@given(case=cases(), data=st.data())
@settings(max_examples=80, deadline=None)
def test_a_candidate_is_the_next_event(case: Case, data: st.DataObject) -> None:
    """Of the events that it sees; its time is that of the request, which is age 0."""
    seen, candidates = [], []
    for request, length in enumerate(case.lengths):
        for _ in range(data.draw(st.integers(0, 2))):
            seen.append((request, data.draw(st.integers(0, length))))
            candidates.append(data.draw(st.integers(0, 9)))
    events = np.array(case.values, np.int64)
    made = candidate_ngram_ids(
        events,
        np.array(case.lengths, np.int64),
        np.array(candidates, np.int64),
        np.array([(*of, 0) for of in seen], np.int64).reshape(-1, 3),
        case.spec,
        hidden=case.hidden,
        ages=np.array(case.times, np.int32),
    )
    assert made.shape == (len(candidates), case.spec.tables)
    starts = np.cumsum([0, *case.lengths])
    for ids, (request, visible), candidate in zip(made, seen, candidates, strict=True):
        part = slice(starts[request], starts[request] + visible)
        alone = Case([*case.values[part], candidate], [*case.times[part], 0], [visible + 1], case.spec, case.hidden)
        assert ids.tolist() == alone.ids("reference")[-1].tolist()


@pytest.mark.parametrize("candidate_bigram", [False, True])
def test_an_empty_place_ends_an_n_gram_as_a_hidden_event_does(candidate_bigram: bool) -> None:
    """The rows of the events that are left, and of the candidates."""
    schema = ngram_schema(hidden=True, gap_seconds=300, candidate_bigram=candidate_bigram)
    table, rows = make_table(make_rows(30), schema), {}
    for action in ("hide", "keymask", "drop"):
        acting = filter_by_item(schema, all_items(action, range(0, 50, 2)), training=False)
        batch = collate(table, schema, event_filter=acting)
        shown = _looked_up(batch, "history.item", "history") < 50
        for owner in (*batch.ngrams, *batch.candidate_ngrams):
            found = _looked_up(batch, owner, owner).reshape(-1, 2)
            rows[action, owner] = found[shown] if owner in batch.ngrams else found
    for owner in (*batch.ngrams, *batch.candidate_ngrams):
        assert np.array_equal(rows["keymask", owner], rows["hide", owner])
        assert not np.array_equal(rows["keymask", owner], rows["drop", owner]), "a dropped event is not there"


def _looked_up(batch: HostBatch, key: str, owner: str) -> np.ndarray:
    inverse = batch.inverse(owner)
    assert isinstance(inverse, torch.Tensor)
    return batch.ids_of(key)[inverse.long()].numpy()


def test_narrow_ids_and_the_largest_ones() -> None:
    spec = NgramSpec(orders=[2, 4], heads=2, rows=[2**29 + 11, 101, 7, 2**30])
    for kind in (np.uint8, np.int16, np.int32, np.int64):
        values = np.array([0, 1, np.iinfo(kind).max - (kind == np.int64), 3], kind)
        made = host_ngram_ids(values, np.array([4]), spec)
        assert torch.equal(torch.from_numpy(made), Case(values.tolist(), [], [4], spec, None).ids("reference"))


def test_refuses_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="lengths: expected 3 events in all, got 2"):
        host_ngram_ids(np.arange(3), np.array([2]), NgramSpec(rows=10))
    with pytest.raises(ValueError, match="gap_seconds=5 needs the times"):
        host_ngram_ids(np.arange(3), np.array([3]), NgramSpec(rows=10, gap_seconds=5))
