"""The schema of the data tests with n-grams."""

from typing import Any

from dist_rec.data.schema import Schema
from tests.data.requests import make_schema

SPEC: dict[str, Any] = {"orders": [2, 3], "heads": 1, "rows": [41, 67]}


def ngram_schema(fields: tuple[str, ...] = ("item", "kind"), *, hidden: bool = False, **spec: Any) -> Schema:
    """`make_schema()` with n-grams of some fields of the history; `spec` are changes of `SPEC`."""
    ids = [{"name": name, "ngram": SPEC | spec} if name in fields else name for name in ("item", "kind")]
    side = {"action": 4, "page": 300}
    sequences = [{"name": "history", "ids": ids, "side": side, "time": True}, {"name": "searches", "ids": ["query"]}]
    return make_schema(sequences=sequences, hidden=hidden)
