"""Features of served requests are those that the reader of training makes of the same requests, to the bit."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_rec.data.collate import Collator
from dist_rec.data.row_reader import PARQUET
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_schema, write_split
from dist_rec.export.requests import as_asked
from dist_rec.predict.rows import valid_rows
from dist_rec.serve.columns import serving_schema
from dist_rec.serve.reference import as_requests
from tests.data.requests import make_rows, make_schema, make_table

NUMBERS = {
    "name": "numbers",
    "tables": {"item": {"rows": 40, "ids": "hashed"}, "user": 1000, "tag": 6},
    "request": {
        "grouping_key": "user",
        "time": "time",
        "cyclic": True,
        "numbers": {"budget": {"encoding": "buckets", "bounds": [1.0, 5.0]}},
    },
    "context": ["user"],
    "sequences": [
        {
            "name": "history",
            "ids": [{"name": "item", "table": "item"}],
            "side": {"action": 4},
            "time": True,
            "numbers": {"price": {"encoding": "piecewise", "bounds": [0.0, 1.0, 9.0]}},
        }
    ],
    "candidate": {
        "ids": [{"name": "item", "table": "item"}],
        "labels": ["click"],
        "numbers": {"price": {"encoding": "piecewise", "bounds": [0.0, 1.0, 9.0]}},
        "lists": {"tags": {"table": "tag"}},
    },
}


def rows_with_numbers(count: int) -> list[dict[str, object]]:
    """Ids beyond 2^53, which JSON of other languages would round, negative ones, and missing numbers."""
    rng = np.random.default_rng(0)
    found: list[dict[str, object]] = []
    for user in range(count):
        events, candidates = int(rng.integers(0, 9)), int(rng.integers(1, 5))
        price = rng.normal(2, 3, events).astype(np.float32)
        price[rng.random(events) < 0.3] = np.nan
        found.append(
            {
                "user": user,
                "time": 1_700_000_000 + user,
                "budget": None if user % 3 == 0 else float(user),
                "history.item": rng.integers(-(2**62), 2**62, events).tolist(),
                "history.action": rng.integers(0, 4, events).tolist(),
                "history.time": np.sort(rng.integers(1_600_000_000, 1_700_000_000, events)).tolist(),
                "history.price": price.tolist(),
                "candidate.item": rng.integers(-(2**62), 2**62, candidates).tolist(),
                "candidate.price": rng.normal(2, 3, candidates).astype(np.float32).tolist(),
                "candidate.tags": [rng.integers(0, 6, int(rng.integers(0, 4))).tolist() for _ in range(candidates)],
                "candidate.click": rng.integers(0, 2, candidates).tolist(),
            }
        )
    return found


@pytest.mark.parametrize("most", [None, 3])
@pytest.mark.parametrize("kind", ["plain", "numbers"])
def test_a_request_in_json_becomes_the_batch_of_the_reader(tmp_path: Path, kind: str, most: int | None) -> None:
    schema = make_schema() if kind == "plain" else Schema.model_validate(NUMBERS)
    rows = make_rows(20, seed=4) if kind == "plain" else rows_with_numbers(20)
    write_schema(tmp_path, schema)
    write_split(tmp_path / "test", make_table(rows, schema), schema, 8, 40)
    groups = PARQUET.row_groups(tmp_path / "test", schema)
    read = PARQUET.read(groups, schema)
    served = serving_schema(schema)
    sent = json.dumps(as_requests(as_asked(read, schema, served)[0]))

    trained = Collator(schema=schema, max_length=most)(read)
    answered = Collator(schema=served, max_length=most)(valid_rows(json.loads(sent), served))
    same = [name for name in answered.tensors if name not in ("labels", "candidates_per_rank")]
    assert len(same) > 8
    for name in same:
        assert torch.equal(*(_bits(batch.tensors[name]) for batch in (trained, answered))), name
    assert {"labels", "oracle"} >= set(trained.tensors) - set(answered.tensors)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    """A missing number is the same as another one."""
    return tensor.view(torch.int32) if tensor.dtype == torch.float32 else tensor
