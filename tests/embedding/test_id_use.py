from collections.abc import Sequence

import pytest
import torch
from torch import nn

from dist_rec.config import EmbeddingConfig
from dist_rec.embedding.dynamic_tables import DynamicTables
from dist_rec.embedding.id_use import IdMeter, IdUse, maps_told
from tests.data.open_rows import open_schema

CPU = torch.device("cpu")
TABLES = {"item": {"admission": {"count": 3}, "eviction": {"policy": "ttl", "ttl": 9}}}


def _tables() -> DynamicTables:
    tables = DynamicTables(open_schema("dynamic", 600), EmbeddingConfig.model_validate({"tables": TABLES}))
    tables.start({}, CPU, 0, 1)
    return tables


def _of_two_ranks(*mine: float) -> Sequence[float]:
    return [2 * of for of in mine]


def test_shares_of_the_ids_that_were_met() -> None:
    shares = IdUse(met=200, hits=150, inserted=40, evicted=30, waiting=6, no_slot=4).shares()
    assert shares == {"hit": 0.75, "inserted": 0.2, "waiting": 0.03, "no_slot": 0.02, "evicted": 0.15}
    assert sum(shares.values()) - shares["evicted"] == pytest.approx(1.0)
    assert set(IdUse(0, 0, 0, 0, 0, 0).shares().values()) == {0.0}


def test_what_happened_since_the_last_reading_on_all_ranks() -> None:
    tables = _tables()
    tables.ids["user"].learn(torch.tensor([-4, 4]), 0)
    meter = IdMeter(nn.Sequential(tables), _of_two_ranks)
    assert set(meter.since_last()) == {"item", "user"}
    tables.ids["item"].learn(torch.tensor([1, 2, 3]), 0)
    tables.ids["user"].learn(torch.tensor([4, 5, 6]), 1)
    found = meter.since_last()
    assert found["item"] == IdUse(met=6, hits=0, inserted=0, evicted=0, waiting=6, no_slot=0)
    assert found["user"] == IdUse(met=6, hits=2, inserted=4, evicted=0, waiting=0, no_slot=0)
    assert meter.since_last()["user"].met == 0


def test_without_dynamic_tables_nothing_is_reduced() -> None:
    meter = IdMeter(nn.Linear(1, 1), lambda *_: pytest.fail("no rank waits for others"))
    assert meter.since_last() == {} and maps_told(nn.Linear(1, 1)) == []


def test_maps_are_told_in_a_line() -> None:
    item, user = maps_told(_tables())
    told = "table item: 600 dynamic ids in 2 buckets, ttl of 9 steps, admitted after 3 steps; 0.0 MiB of maps per rank"
    assert item == told and user == "table user: 600 dynamic ids in 2 buckets, lru; 0.0 MiB of maps per rank"
