"""Requests of a schema with fields of every kind: the ones of `make_schema()`, numbers of requests, events and
candidates in every encoding, lists of requests and candidates, cyclic times, and attributes of ids."""

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dist_rec.data.attribute_store import AttributeStore, open_attributes, write_attributes
from dist_rec.data.collate import Collator
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.data.validate import validate
from dist_rec.data.writer import write_schema, write_split
from tests.data.requests import make_rows, make_schema, make_table

FITTED = {"mean": 1.0, "std": 2.0, "bounds": [-3.0, 0.0, 0.5, 2.0, 9.0], "missing": 0.25}
NUMBERS: dict[str, dict[str, Any]] = {
    "price": {"scale": "log", "fitted": FITTED},
    "stay": {"encoding": "value", "fitted": FITTED},
    "rank": {"encoding": "buckets", "bounds": [-1.0, 0.0, 3.0]},
}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "item": {
        "year": {"number": NUMBERS["price"]},
        "shelf": {"number": NUMBERS["rank"]},
        "title": {"vector": 6},
        "genres": {"list": "genre"},
        "makers": {"list": "user", "pool": "sum"},
    },
    "user": {"income": {"number": NUMBERS["stay"]}},
}
RELATED = {"related": {"table": "item", "pool": "sum"}}
TABLES = {"item": 50, "kind": 5, "user": 1000, "query": 9, "genre": 7}
NOW = 1_700_000_000


def kinds_schema(**changes: Any) -> Schema:
    numbers = {"numbers": NUMBERS}
    sequences = [
        {"name": "history", "ids": ["item", "kind"], "side": {"action": 4}, "time": True, **numbers},
        {"name": "searches", "ids": ["query"], "numbers": {"stay": NUMBERS["stay"]}},
    ]
    tree: dict[str, Any] = {
        "tables": TABLES,
        "attributes": ATTRIBUTES,
        "request": {"grouping_key": "user", "time": "time", "cyclic": True, "utc_offset": 5.5, **named("of", NUMBERS)},
        "sequences": sequences,
        "candidate": {"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True, "lists": RELATED, **numbers},
    }
    tree["request"] |= {"lists": {"tags": "genre"}}
    groups = {"who": ["context.user", *(f"context.of_{name}" for name in NUMBERS), "context.time", "context.tags"]}
    groups["what"] = [f"candidate.{name}" for name in ("price", "item", "rank", "stay")]
    groups["kind"] = ["candidate.kind", "candidate.related"]
    return make_schema(**{**tree, "feature_groups": groups, **changes})


def named(prefix: str, numbers: dict[str, Any]) -> dict[str, Any]:
    return {"numbers": {f"{prefix}_{name}": of for name, of in numbers.items()}}


def kind_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """A quarter of the numbers is missing: None or NaN."""
    rng = np.random.default_rng(seed)

    def numbers(of: list[Any]) -> list[float | None]:
        values = rng.normal(0.0, 3.0, len(of)).astype(np.float32)
        return [[None, float("nan"), float(v)][min(int(rng.integers(0, 8)), 2)] for v in values]

    rows = []
    for row in make_rows(count, seed):
        row = {**row, "time": NOW + int(rng.integers(0, 10**6))}
        row["history.time"] = [row["time"] - 1_000 + time for time in row["history.time"]]
        row |= {f"of_{name}": numbers([0])[0] for name in NUMBERS}
        for owner, first in (("history", "item"), ("candidate", "item")):
            row |= {f"{owner}.{name}": numbers(row[f"{owner}.{first}"]) for name in NUMBERS}
        row["tags"] = rng.integers(0, 7, int(rng.integers(0, 4))).tolist()
        row["candidate.related"] = [
            rng.integers(0, 50, int(rng.integers(0, 3))).tolist() for _ in row["candidate.item"]
        ]
        rows.append({**row, "searches.stay": numbers(row["searches.query"])})
    return rows


def kinds_table(rows: list[dict[str, Any]], schema: Schema | None = None) -> pa.Table:
    """Validated, as a reader hands it on."""
    schema = schema or kinds_schema()
    return validate(make_table(rows, schema), schema, file="rows", row_group=0)


def flat(rows: list[dict[str, Any]], name: str) -> np.ndarray:
    """(N,) float32 numbers of a list column, or of a column of the request; NaN for None."""
    found = [row[name] for row in rows]
    values = [value for of in found for value in (of if isinstance(of, list) else [of])]
    return np.array(values, np.float32)


def attribute_arrays(seed: int = 0) -> dict[str, dict[str, Any]]:
    """Of every table, as `write_attributes` takes them: a quarter of the numbers is missing, and of the lists empty."""
    rng = np.random.default_rng(seed)

    def numbers(rows: int) -> np.ndarray:
        return np.where(rng.random(rows) < 0.25, np.nan, rng.normal(0.0, 3.0, rows)).astype(np.float32)

    def lists(rows: int, size: int) -> list[np.ndarray]:
        return [rng.integers(0, size, int(rng.integers(0, 4))) for _ in range(rows)]

    item = {"year": numbers(50), "shelf": numbers(50), "title": rng.normal(size=(50, 6)).astype(np.float16)}
    item |= {"genres": lists(50, 7), "makers": lists(50, 1000)}
    return {"item": item, "user": {"income": numbers(1000)}}


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


def kinds_store(schema: Schema | None = None) -> AttributeStore:
    """Of `kinds_schema()`, in a folder that goes with the process."""
    schema, folder = schema or kinds_schema(), Path(_folder().name)
    if not (folder / "attributes").is_dir():
        for table, arrays in attribute_arrays().items():
            write_attributes(folder, schema, table, arrays)
    store = open_attributes(folder, schema)
    assert store is not None
    return store


def kinds_batch(rows: list[dict[str, Any]], schema: Schema | None = None, **options: Any) -> HostBatch:
    schema = schema or kinds_schema()
    return Collator(schema, **{"attributes": kinds_store(schema), **options})(kinds_table(rows, schema))


def write_kinds(folder: Path, sizes: dict[str, int], schema: Schema | None = None) -> Path:
    """A dataset with so many requests in each split, in row groups of 8, and attributes of ids."""
    schema = schema or kinds_schema()
    write_schema(folder, schema)
    for table in schema.attributes:
        write_attributes(folder, schema, table, attribute_arrays()[table])
    for seed, (split, count) in enumerate(sizes.items()):
        write_split(folder / split, make_table(kind_rows(count, seed), schema), schema, rows_per_group=8)
    return folder
