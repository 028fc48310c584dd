"""Requests whose items and users are any 64-bit ids."""

from typing import Any

from dist_rec.data.schema import Schema
from tests.data.requests import make_rows, make_schema

ODD = [-1, 0, 2**63 - 1, -(2**63) + 1, 2**62 + 5, 7, 47, 87]  # the last three are equal modulo 40


def raw_id(number: int) -> int:
    """The id that stands for a number: the odd ones first, then all over the 64 bits."""
    spread = number * 0x9E3779B97F4A7C15 % 2**64
    return ODD[number] if number < len(ODD) else spread - 2**63


def open_schema(kind: str = "hashed", rows: int = 40, **changes: Any) -> Schema:
    """`make_schema` with open tables of items and users."""
    open_tables = {name: {"rows": rows, "ids": kind} for name in ("item", "user")}
    return make_schema(**{"tables": {"kind": 5, "query": 9, **open_tables}, **changes})


def open_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """`make_rows` with `raw_id` of each item and user."""
    rows = make_rows(count, seed)
    for row in rows:
        row["user"] = raw_id(row["user"])
        for name in ("history.item", "candidate.item"):
            row[name] = [raw_id(item) for item in row[name]]
    return rows
