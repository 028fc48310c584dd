from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_rec.common.id_hash import hashed_rows
from dist_rec.common.open_ids import HIDDEN_ID
from dist_rec.data.collate import collate, empty_batch
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.event_filter import make_filter
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.open_ids import hidden_id, ids_as_read, remaps, sent_sizes
from dist_rec.data.schema import Schema
from dist_rec.data.validate import validate
from tests.data.open_rows import open_rows, open_schema
from tests.data.requests import make_schema, make_table

CPU = torch.device("cpu")
ROWS = open_rows(9)
HIDE = {
    "rules": [{"field": "item", "values": [2**63 - 1, -1], "reason": "privacy", "of": ["history"]}],
    "actions": {"privacy": "hide"},
}


def _batch(schema: Schema, *, dedup: bool = True, hide: bool = False) -> HostBatch:
    acting = make_filter(FilterConfig.model_validate(HIDE), schema, training=True) if hide else None
    return collate(make_table(ROWS, schema), schema, dedup=dedup, event_filter=acting)


def _items(batch: HostBatch, owner: str) -> list[int]:
    inverse = batch.inverse(owner)
    assert isinstance(inverse, torch.Tensor)
    return batch.ids_of("history.item")[inverse.long()].tolist()


def _flat(name: str) -> np.ndarray:
    return np.array([item for row in ROWS for item in row[name]])


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("owner", ["history", "candidate"])
def test_every_event_gets_the_row_of_its_id(owner: str, dedup: bool) -> None:
    hashed = _items(_batch(open_schema(rows=40), dedup=dedup), owner)
    assert hashed == hashed_rows(_flat(f"{owner}.item"), 40).tolist()
    raw = _items(_batch(open_schema("dynamic"), dedup=dedup), owner)
    assert raw == _flat(f"{owner}.item").tolist(), "they become rows where the table is"


def test_ids_are_made_distinct_before_they_are_hashed() -> None:
    """Two ids on one row stay two tokens: what they share is the row."""
    few, many = (_batch(open_schema(rows=rows)) for rows in (3, 10**6))
    assert few.num_unique == many.num_unique
    ids = few.ids_of("context.user")
    assert len(ids) == 9 > len(ids.unique()) and int(ids.max()) < 3
    assert few.tensors["ids.context.user"].dtype == torch.uint8, "as narrow as row numbers"
    raw = _batch(open_schema("dynamic")).tensors["ids.context.user"]
    assert raw.dtype == torch.int64 and sorted(raw.tolist()) == sorted(row["user"] for row in ROWS)


@pytest.mark.parametrize(("kind", "mark"), [("hashed", 40), ("dynamic", HIDDEN_ID)])
def test_hidden_events_have_a_row_of_their_own(kind: str, mark: int) -> None:
    schema = open_schema(kind, hidden=True)
    found = _items(_batch(schema, hide=True), "history")
    items = [item for row in ROWS if row["candidate.item"] for item in row["history.item"]]  # others are not trained
    hidden = np.isin(items, [2**63 - 1, -1])
    assert hidden.any() and not hidden.all()
    assert [id_ == mark for id_ in found] == hidden.tolist()
    assert hidden_id(schema, "item") == HIDDEN_ID and hidden_id(schema, "kind") == 5


def test_the_id_of_the_mark_is_not_hidden() -> None:
    schema = open_schema("dynamic", hidden=True)
    assert ids_as_read(schema, "item", np.array([HIDDEN_ID])).tolist() == [HIDDEN_ID + 1]
    assert ids_as_read(schema, "kind", np.array([3], np.uint8)).dtype == np.uint8
    row = {**ROWS[0], "user": HIDDEN_ID}
    assert collate(make_table([row], schema), schema).ids_of("context.user").tolist() == [HIDDEN_ID + 1]


def test_of_what_keys() -> None:
    schema = open_schema()
    assert remaps(schema).keys() == {"history.item", "context.user"} and not remaps(make_schema())
    assert not remaps(open_schema("dynamic"))
    sizes = schema.layout.sizes
    assert sent_sizes(schema, sizes) == sizes
    raw = sent_sizes(open_schema("dynamic"), open_schema("dynamic").layout.sizes)
    assert raw == {"context.user": None, "history.item": None, "history.kind": 5, "searches.query": 9}


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_an_empty_batch(kind: str) -> None:
    batch = empty_batch(open_schema(kind)).to(CPU)
    assert batch.num_candidates == 0 and batch.unique.values().numel() == 0


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_unsigned_ids_are_read_by_their_bits(kind: str, tmp_path: Path) -> None:
    schema = open_schema(kind)
    table = make_table(ROWS, schema)
    unsigned = table
    for name in ("user", "history.item", "candidate.item"):
        values = table[name].to_pylist()
        of = pa.uint64() if name == "user" else pa.list_(pa.uint64())
        bits = [v % 2**64 for v in values] if name == "user" else [[v % 2**64 for v in row] for row in values]
        unsigned = unsigned.set_column(unsigned.column_names.index(name), name, pa.array(bits, of))
    assert validate(unsigned, schema, file="f", row_group=0).equals(table)
    assert validate(table, schema, file="f", row_group=0).equals(table), "any id is valid"
