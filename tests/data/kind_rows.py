"""Requests of a schema with fields of every kind: the ones of `make_schema()`, and numbers of requests, events and
candidates in every encoding, and cyclic times."""

from typing import Any

import numpy as np
import pyarrow as pa

from dist_rec.data.schema import Schema
from dist_rec.data.validate import validate
from tests.data.requests import make_rows, make_schema, make_table

FITTED = {"mean": 1.0, "std": 2.0, "bounds": [-3.0, 0.0, 0.5, 2.0, 9.0], "missing": 0.25}
NUMBERS: dict[str, dict[str, Any]] = {
    "price": {"scale": "log", "fitted": FITTED},
    "stay": {"encoding": "value", "fitted": FITTED},
    "rank": {"encoding": "buckets", "bounds": [-1.0, 0.0, 3.0]},
}
NOW = 1_700_000_000


def kinds_schema(**changes: Any) -> Schema:
    numbers = {"numbers": NUMBERS}
    sequences = [
        {"name": "history", "ids": ["item", "kind"], "side": {"action": 4}, "time": True, **numbers},
        {"name": "searches", "ids": ["query"], "numbers": {"stay": NUMBERS["stay"]}},
    ]
    tree = {
        "request": {"grouping_key": "user", "time": "time", "cyclic": True, "utc_offset": 5.5, **named("of", NUMBERS)},
        "sequences": sequences,
        "candidate": {"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True, **numbers},
    }
    groups = {"who": ["context.user", *(f"context.of_{name}" for name in NUMBERS), "context.time"]}
    groups["what"] = [f"candidate.{name}" for name in ("price", "item", "rank", "stay")]
    return make_schema(**{**tree, "feature_groups": {**groups, "kind": ["candidate.kind"]}, **changes})


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
