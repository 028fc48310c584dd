"""N-grams that are hashed where the batch is: the same rows for every event as from the host."""

import pickle

import pytest
import torch

from dist_rec.data.collate import collate, empty_batch
from dist_rec.data.host_batch import HostBatch
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.ngram.schemas import ngram_schema
from tests.data.requests import make_rows, make_table

CPU = torch.device("cpu")


def both(
    count: int, *, dedup: bool = True, gap: int | None = None, action: str = "keep"
) -> tuple[HostBatch, HostBatch]:
    """Hashed on the host, and where it is moved to; `action` for every third item."""
    schema = ngram_schema(gap_seconds=gap, hidden=True)
    acting, table = filter_by_item(schema, all_items(action), training=False), make_table(make_rows(count), schema)
    ways = (collate(table, schema, dedup=dedup, hash_ngrams=here, event_filter=acting) for here in (True, False))
    here, there = ways
    return here, pickle.loads(pickle.dumps(there))


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("gap", [None, 200])
@pytest.mark.parametrize("count", [0, 1, 20])
@pytest.mark.parametrize("action", ["keep", "hide", "keymask"])
def test_rows_of_every_event_are_those_of_the_host(count: int, action: str, gap: int | None, dedup: bool) -> None:
    here, there = both(count, dedup=dedup, gap=gap, action=action)
    assert not any(key.endswith("ngram") for key in there.num_unique)
    first, second = here.to(CPU), there.to(CPU)
    assert set(first.unique.keys()) == set(second.unique.keys())
    for owner in here.ngrams:
        rows = []
        for batch in (first, second):
            inverse = batch.sequences["history"].ngrams[owner]
            assert isinstance(inverse, torch.Tensor) and inverse.dtype == torch.int32
            rows.append(batch.unique[owner].values()[inverse.long()])
        assert torch.equal(*rows) and len(rows[0]) == 2 * here.counts["history"]
    for key in ("history.item", "history.kind", "context.user"):
        assert torch.equal(first.unique[key].values(), second.unique[key].values())


def test_their_use_is_known_when_the_batch_has_moved() -> None:
    here, there = both(20)
    assert here.ngram_use and not there.ngram_use
    there.to(CPU)
    assert there.ngram_use == here.ngram_use


@pytest.mark.parametrize("hash_ngrams", [True, False])
def test_no_requests(hash_ngrams: bool) -> None:
    schema = ngram_schema()
    batch = empty_batch(schema, hash_ngrams=hash_ngrams).to(CPU)
    assert set(batch.unique.keys()) == set(schema.layout.sizes)
    assert all(len(inverse) == 0 for inverse in batch.sequences["history"].ngrams.values())
