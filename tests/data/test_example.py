import pickle

import numpy as np
import pytest
import torch

from dist_rec.data.collate import Collator, collate
from dist_rec.data.example import ExampleAttributes, ListSize, example_rows
from dist_rec.data.schema import Schema
from dist_rec.data.validate import validate
from tests.data.kind_rows import kind_rows, kinds_batch, kinds_schema
from tests.data.later import later_schema
from tests.data.requests import make_schema, seen_schema

NAMED = make_schema(sequences=[{"name": "feedback", "ids": ["item"]}, {"name": "history", "ids": ["item"]}])


@pytest.mark.parametrize(
    "schema",
    [make_schema(), seen_schema(), later_schema(), NAMED],
    ids=["plain", "visible events", "feedback", "a sequence of that name"],
)
@pytest.mark.parametrize(("requests", "events", "candidates"), [(3, 4, 2), (1, 0, 1), (0, 5, 5)])
def test_rows_are_valid_and_of_the_sizes_asked_for(schema: Schema, requests: int, events: int, candidates: int) -> None:
    rows = example_rows(schema, requests=requests, events=events, candidates=candidates)
    assert validate(rows, schema, file="example", row_group=0).equals(rows)
    batch = collate(rows, schema)
    assert rows.num_rows == requests and len(batch.tensors["labels"]) == requests * candidates
    for sequence in schema.sequences:
        assert batch.tensors[f"lengths.{sequence.name}"].tolist() == [events] * requests
    if schema.candidate.feedback is not None:
        assert batch.tensors["lengths.feedback"].tolist() == [1] * requests * candidates


def test_fields_of_every_kind() -> None:
    schema = kinds_schema()
    table = example_rows(schema, requests=2, events=3, candidates=4)
    assert validate(table, schema, file="f", row_group=0).equals(table)
    assert [len(row) for row in table["candidate.related"].to_pylist()] == [4, 4]
    assert all(len(of) == 2 for row in table["candidate.related"].to_pylist() for of in row)
    batch = Collator(schema, attributes=ExampleAttributes.of(schema))(table)
    assert batch.num_events == 12 and batch.counts["context.tags"] == 6
    assert batch.counts["history.item.genres"] == 2 * batch.num_unique["history.item"] > 0
    whole = kinds_batch(kind_rows(5)).to(torch.device("cpu")).attributes
    found = batch.to(torch.device("cpu")).attributes
    assert {key: list(of) for key, of in found.items()} == {key: list(of) for key, of in whole.items()}
    title, other = found["history.item"]["title"], whole["history.item"]["title"]
    assert isinstance(title, torch.Tensor) and isinstance(other, torch.Tensor)
    assert title.dtype == other.dtype and title.shape[1:] == other.shape[1:]


def test_attributes_keep_their_sizes_in_another_process() -> None:
    made = ExampleAttributes.of(kinds_schema(), {("item", "genres"): ListSize(3.0)})
    lists = pickle.loads(pickle.dumps(made)).lists("item", "genres", np.arange(4))
    assert lists.lengths.tolist() == [3] * 4
