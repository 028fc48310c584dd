import torch

from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from tests.data.requests import make_rows, make_schema, make_table


def _batch() -> SequenceBatch:
    return collate(make_table(make_rows(5)), make_schema())


def test_counts() -> None:
    rows = make_rows(5)
    batch = _batch()
    assert batch.num_requests == 5
    assert batch.num_candidates == sum(len(row["candidate.item"]) for row in rows)
    assert batch.num_events == sum(len(row["history.item"]) + len(row["searches.query"]) for row in rows)


def test_offsets() -> None:
    history = _batch().sequences["history"]
    assert history.offsets.tolist() == [0, *history.lengths.cumsum(0).tolist()]
    assert history.offsets.dtype == torch.int32


def test_to_moves_every_tensor() -> None:
    moved = _batch().to(torch.device("meta"))
    assert moved.unique.values().is_meta and moved.candidates.inverse.is_meta and moved.share.is_meta
    age = moved.sequences["history"].age
    assert age is not None and age.is_meta and moved.sequences["history"].dynamic["page"].is_meta
    assert moved.seen is None
