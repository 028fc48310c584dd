"""The table of a prediction: names, types, order, and the numbers."""

import itertools
import math

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_rec.predict.columns import More, Scores, key_columns, prediction_schema, prediction_table
from tests.data.requests import make_rows, make_schema, make_table, seen_schema

KEYS = ["user", "time", "candidate.item", "candidate.kind"]


def test_keys_are_those_of_the_schema() -> None:
    assert key_columns(make_schema()) == KEYS
    assert key_columns(seen_schema()) == ["user", "candidate.item"], "without a time"


@pytest.mark.parametrize("more", [More(), More(logits=True), More(embeddings=True), More(True, True)])
def test_one_row_per_request_with_an_entry_per_candidate(more: More) -> None:
    rows = make_rows(6, seed=3)
    counts = [len(row["candidate.item"]) for row in rows]
    assert 0 in counts and max(counts) > 1, "requests without candidates, and with several"
    logits = torch.randn(sum(counts), 2)
    features = torch.randn(sum(counts), 3) if more.embeddings else None
    keys = make_table(rows).select(KEYS)
    table = prediction_table(keys, 40, Scores(logits, features), make_schema(), more)
    assert table.schema == prediction_schema(make_schema(), more, 3)
    assert table.column("request.row").to_pylist() == list(range(40, 46))
    for name in KEYS:
        assert table.column(name).to_pylist() == [row[name] for row in rows]
    ends = np.cumsum([0, *counts])
    for task, name in enumerate(("click", "buy")):
        of = [logits[a:b, task] for a, b in itertools.pairwise(ends)]
        probabilities = table.column(f"probability.{name}").to_pylist()
        assert all(
            got == pytest.approx([1 / (1 + math.exp(-z)) for z in part.tolist()], rel=1e-7)
            for got, part in zip(probabilities, of, strict=True)
        )
        assert (f"logit.{name}" in table.column_names) == more.logits
        if more.logits:
            assert table.column(f"logit.{name}").to_pylist() == [part.tolist() for part in of]
    assert ("embedding.candidate" in table.column_names) == more.embeddings
    if features is not None:
        vectors = table.column("embedding.candidate").to_pylist()
        assert vectors == [features[a:b].tolist() for a, b in itertools.pairwise(ends)]


def test_a_probability_is_rounded_once() -> None:
    """A sigmoid in float32 alone loses the last digits of small ones."""
    rows = [row | {"candidate.item": [1], "candidate.kind": [1]} for row in make_rows(1)]
    keys = pa.table({name: make_table(make_rows(1)).column(name) for name in KEYS[:2]}).append_column(
        "candidate.item", pa.array([rows[0]["candidate.item"]], pa.list_(pa.uint8()))
    )
    keys = keys.append_column("candidate.kind", pa.array([[1]], pa.list_(pa.uint8())))
    logits = torch.tensor([[-17.3, 0.1]])
    table = prediction_table(keys, 0, Scores(logits, None), make_schema(), More())
    (found,) = table.column("probability.click").to_pylist()[0]
    assert found == float(np.float32(1 / (1 + math.exp(-float(logits[0, 0])))))
