"""Small random datasets for the tests of the data layer."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import arrow_schema
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_schema, write_split


def make_schema(**changes: Any) -> Schema:
    """Two sequences that share a feature set with the candidate or not, context, times, two labels with their truth."""
    tree = {
        "name": "small",
        "tables": {"item": 50, "kind": 5, "user": 1000, "query": 9},
        "request": {"grouping_key": "user", "time": "time"},
        "context": ["user"],
        "sequences": [
            {"name": "history", "ids": ["item", "kind"], "side": {"action": 4, "page": 300}, "time": True},
            {"name": "searches", "ids": ["query"]},
        ],
        "candidate": {"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True},
    }
    return Schema.model_validate(tree | changes)


def seen_schema() -> Schema:
    """One sequence, every event also a candidate."""
    sequence = {"name": "history", "ids": ["item"], "side": {"correct": 2}}
    candidate = {"ids": ["item"], "labels": ["correct"], "visible_events": True}
    return Schema.model_validate(
        {
            "name": "answers",
            "tables": {"item": 50},
            "request": {"grouping_key": "user"},
            "sequences": [sequence],
            "candidate": candidate,
        }
    )


def make_row(rng: np.random.Generator, user: int, longest: int = 6) -> dict[str, Any]:
    """A request of `make_schema()`."""
    events, searches, candidates = (int(rng.integers(0, longest + 1)) for _ in range(3))
    row: dict[str, Any] = {"user": user, "time": 1_000}
    row["history.item"] = rng.integers(0, 50, events).tolist()
    row["history.kind"] = rng.integers(0, 5, events).tolist()
    row["history.action"] = rng.integers(0, 4, events).tolist()
    row["history.page"] = rng.integers(0, 300, events).tolist()
    row["history.time"] = np.sort(rng.integers(0, 1_000, events)).tolist()
    row["searches.query"] = rng.integers(0, 9, searches).tolist()
    row["candidate.item"] = rng.integers(0, 50, candidates).tolist()
    row["candidate.kind"] = rng.integers(0, 5, candidates).tolist()
    for label in ("click", "buy"):
        row[f"candidate.{label}"] = rng.integers(0, 2, candidates).tolist()
        row[f"candidate.{label}.oracle"] = rng.random(candidates).astype(np.float32).tolist()
    return row


def make_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Requests of the users 0, 1, 2, ..."""
    rng = np.random.default_rng(seed)
    return [make_row(rng, user) for user in range(count)]


def make_table(rows: list[dict[str, Any]], schema: Schema | None = None) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=arrow_schema(schema or make_schema()))


def make_dataset(folder: Path, rows: int, rows_per_group: int = 8, rows_per_file: int = 40) -> Path:
    """A dataset folder with a split `train`."""
    schema = make_schema()
    write_schema(folder, schema)
    write_split(folder / "train", make_table(make_rows(rows)), schema, rows_per_group, rows_per_file)
    return folder
