"""Attributes of a batch against those of every element, looked up one by one."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_rec.data.attribute_store import open_attributes, write_attributes
from dist_rec.data.batch import IdLists, SequenceBatch
from dist_rec.data.collate import Collator
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.event_filter import EventFilter, make_filter
from dist_rec.data.schema import Schema
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.kind_rows import ATTRIBUTES, attribute_arrays, kind_rows, kinds_batch, kinds_schema, kinds_table
from tests.data.open_rows import raw_id
from tests.data.requests import make_rows, make_schema, make_table

CPU = torch.device("cpu")
KEYS = {"context.user": "user", "history.item": "item", "candidate.related": "item"}
ARRAYS = attribute_arrays()


def _looked_up(batch: SequenceBatch, schema: Schema, key: str, name: str, ids: list[int]) -> None:
    """Compares with the arrays, id by id."""
    table = KEYS[key]
    got, of = batch.attributes[key][name], schema.attributes[table][name]
    arrays, hidden = ARRAYS[table][name], schema.tables[table]
    if isinstance(got, IdLists):
        assert of.list is not None and isinstance(got.inverse, torch.Tensor)
        values = batch.unique[f"{key}.{name}"].values()[got.inverse.long()].tolist()
        assert got.lengths.host.tolist() == [0 if i == hidden else len(arrays[i]) for i in ids]
        assert values == [int(of) for i in ids if i != hidden for of in arrays[i]]
        return
    shape = (len(ids), of.vector) if of.vector is not None else (len(ids),)
    missing = 0.0 if of.vector is not None else np.nan
    expected = np.array([np.full(shape[1:], missing) if i == hidden else arrays[i] for i in ids], np.float32)
    expected = expected.reshape(shape)
    if of.number is not None and of.number.num_buckets is not None:
        assert got.dtype == torch.uint8
        expected = of.number.buckets_of(expected)
    else:
        assert got.dtype == (torch.float16 if of.vector else torch.float32)
    np.testing.assert_array_equal(got.numpy(), expected)


@pytest.mark.parametrize("dedup", [True, False])
@pytest.mark.parametrize("hides", [True, False])
def test_every_distinct_id_has_its_own(dedup: bool, hides: bool) -> None:
    schema = kinds_schema(hidden=hides)
    acting: EventFilter | None = filter_by_item(schema, all_items("hide")) if hides else None
    batch = kinds_batch(kind_rows(30), schema, dedup=dedup, event_filter=acting).to(CPU)
    assert list(batch.attributes) == list(KEYS)
    for key, table in KEYS.items():
        ids = batch.unique[key].values().tolist()
        assert (50 in ids) == (hides and key == "history.item")
        for name in ATTRIBUTES[table]:
            _looked_up(batch, schema, key, name, ids)
    lists = batch.unique["history.item.makers"].values()
    assert (len(lists) == len(set(lists.tolist()))) == dedup


def test_they_cross_once_per_distinct_token() -> None:
    """But a job without dedup moves them for every event and candidate."""
    rows, schema = kind_rows(40), kinds_schema()
    bare = schema.model_copy(update={"attributes": {}})
    sent, plain = kinds_batch(rows, schema), Collator(bare)(kinds_table(rows, bare))
    u, elements = sent.num_unique["history.item"], sent.counts["history"] + sent.counts["candidate"]
    assert u < elements
    related = [of for row in rows for ids in row["candidate.related"] for of in ids]
    more = [name for name in sent.tensors if name.startswith("attribute.history")]
    assert sum(sent.tensors[name].nbytes for name in more) == u * (4 + 1 + 12)
    ids = [item for row in rows for owner in ("history", "candidate") for item in row[f"{owner}.item"]]
    assert len(ids) == elements
    ids += related
    lists = [len(ARRAYS["item"][name][item]) for item in ids for name in ("genres", "makers")]
    expected = len(ids) * (4 + 4 + 12) + sum(8 * of + 4 for of in lists) + 4 * len(rows)
    assert sent.plain_bytes - plain.plain_bytes == expected


def test_without_a_store_nothing_is_known() -> None:
    schema, rows = kinds_schema(), kind_rows(9)
    batch = Collator(schema)(kinds_table(rows, schema)).to(CPU)
    of_items = batch.attributes["history.item"]
    year, shelf, title, genres = (of_items[name] for name in ("year", "shelf", "title", "genres"))
    assert isinstance(year, torch.Tensor) and year.isnan().all() and isinstance(title, torch.Tensor)
    assert isinstance(shelf, torch.Tensor) and (shelf == 4).all() and not title.any() and isinstance(genres, IdLists)
    assert genres.lengths.total == 0 and len(genres.lengths) == len(year) == len(title) > 0


def test_an_empty_batch_has_the_same_keys() -> None:
    schema = kinds_schema()
    whole, empty = kinds_batch(kind_rows(9)).to(CPU), Collator(schema).empty().to(CPU)
    assert empty.unique.keys() == whole.unique.keys()
    assert {k: list(v) for k, v in empty.attributes.items()} == {k: list(v) for k, v in whole.attributes.items()}


def test_context_feedback_and_other_names_of_a_table(tmp_path: Path) -> None:
    """A field with another name is another key; ids of feedback have attributes, too."""
    tree: dict[str, Any] = {
        "attributes": {"item": {"year": {"number": {"bounds": [0.0, 1.0]}}, "genres": {"list": "kind"}}},
        "context": ["user", {"name": "query", "table": "item"}],
        "candidate": {"ids": ["kind"], "labels": ["click", "buy"], "oracle": True},
    }
    tree["candidate"]["feedback"] = {"ids": [{"name": "next", "table": "item"}]}
    schema = make_schema(**tree)
    arrays = {"year": np.arange(50.0), "genres": [[i % 5] * (i % 3) for i in range(50)]}
    write_attributes(tmp_path, schema, "item", arrays)
    rows = [
        {**row, "query": 7, "candidate.feedback_events": [1] * len(row["candidate.kind"])}
        | {"feedback.next": [number for number, _ in enumerate(row["candidate.kind"])]}
        for row in make_rows(6)
    ]
    sent = Collator(schema, attributes=open_attributes(tmp_path, schema))(make_table(rows, schema))
    batch = sent.to(CPU)
    assert list(batch.attributes) == ["context.query", "history.item", "feedback.next"]
    for key, found in batch.attributes.items():
        ids = batch.unique[key].values().tolist()
        year, genres = found["year"], found["genres"]
        assert isinstance(year, torch.Tensor) and year.tolist() == ids and isinstance(genres, IdLists)
        assert genres.lengths.host.tolist() == [i % 3 for i in ids]


RAW = np.array([raw_id(number) for number in range(50)])
OF_ITEMS = {"item": {name: ATTRIBUTES["item"][name] for name in ("year", "shelf", "title", "genres")}}


def _of_elements(batch: SequenceBatch, owner: str, name: str) -> list[Any]:
    """What every event or candidate has of one attribute."""
    inverse = (batch.candidates if owner == "candidate" else batch.sequences[owner]).inverse
    assert isinstance(inverse, torch.Tensor)
    values = batch.attributes["history.item"][name]
    if not isinstance(values, IdLists):
        return values.nan_to_num(nan=-99)[inverse.long()].tolist()
    assert isinstance(values.inverse, torch.Tensor)
    ids = batch.unique[f"history.item.{name}"].values()[values.inverse.long()]
    lists = [of.tolist() for of in ids.split(values.lengths.host.tolist())]
    return [lists[place] for place in inverse.tolist()]


@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_ids_without_a_range_have_what_the_same_ids_have_with_one(tmp_path: Path, kind: str, hides: bool) -> None:
    """Also where hashed ids share a row of their table."""
    rows = make_rows(30)
    tables = {"item": 50, "kind": 5, "user": 1000, "query": 9, "genre": 7}
    ranged = make_schema(tables=tables, attributes=OF_ITEMS, hidden=hides)
    opened = make_schema(tables={**tables, "item": {"rows": 11, "ids": kind}}, attributes=OF_ITEMS, hidden=hides)
    items = {name: ARRAYS["item"][name] for name in OF_ITEMS["item"]}
    write_attributes(tmp_path / "ranged", ranged, "item", items)
    write_attributes(tmp_path / "opened", opened, "item", items, RAW)
    raw = [row | {name: RAW[row[name]].tolist() for name in ("history.item", "candidate.item")} for row in rows]
    found = []
    for folder, schema, given, hidden in (
        ("ranged", ranged, rows, [3, 8]),
        ("opened", opened, raw, RAW[[3, 8]].tolist()),
    ):
        policy = {"rules": [{"field": "item", "values": hidden, "reason": "privacy", "of": ["history"]}]}
        policy |= {"actions": {"privacy": "hide"}}
        acting = make_filter(FilterConfig.model_validate(policy), schema, training=False) if hides else None
        store = open_attributes(tmp_path / folder, schema)
        found.append(Collator(schema, event_filter=acting, attributes=store)(make_table(given, schema)).to(CPU))
    for owner in ("history", "candidate"):
        for name in OF_ITEMS["item"]:
            expected, got = (_of_elements(batch, owner, name) for batch in found)
            assert got == expected
            assert len({str(of) for of in got}) > 3
