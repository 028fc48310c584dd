"""Ids without a range: how a table holds any 64-bit id in a fixed number of rows. Without torch and numpy, as all
options of a recipe.

- `range`: ids are row numbers, 0 to rows - 1
- `hashed`: an id belongs to the row that a fixed hash names; ids may share a row
- `dynamic`: an id gets a row of its own when it is met, and may lose it to another one (embedding/dynamic_ids.py)
"""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from dist_rec.common.strict import Size, Strict

OpenIds = Literal["hashed", "dynamic"]
IdKind = Literal["range", "hashed", "dynamic"]
Policy = Literal["lru", "lfu", "ttl"]

# The mark of a hidden event among raw ids; an id of these bits is taken for the next one, see `raw_ids`.
HIDDEN_ID = -(2**63)
EXTRA_ROWS = 2  # of a dynamic table, its last ones: for ids without a row of their own, then HIDDEN
PROBES = 32  # rows of a bucket among which an id has its place
_BUCKET_ROWS = 256  # at least, where there are enough rows for more than one bucket
# Ranks hold whole buckets, so the numbers have many divisors: 1 to 6, 8, 10, 12, 15, 16 and so on up to 1,024 ranks.
# As PROBES and EXTRA_ROWS they say where ids are in a checkpoint: others cannot read what was saved with these.
_BUCKETS = (15360, 7680, 3840, 1920, 960, 480, 240, 48, 24, 8, 4, 2)


class EvictionConfig(Strict):
    """Whose row a new id takes where no row is free. Steps are those of training."""

    policy: Policy = Field(
        default="lru",
        description="lru: of the id that was not met for longest. lfu: of the one that was met in the fewest steps. "
        "ttl: only of ids that were not met for more than `ttl` steps.",
    )
    ttl: Size | None = Field(default=None, ge=1, description="With policy ttl: steps.")

    @model_validator(mode="after")
    def _check(self) -> "EvictionConfig":
        if (self.policy == "ttl") != (self.ttl is not None):
            raise ValueError(f"expected ttl with policy: ttl and only there, got policy {self.policy}, ttl {self.ttl}")
        return self


class AdmissionConfig(Strict):
    """When a new id gets a row."""

    count: Size = Field(default=1, ge=1, description="In the n-th step that meets it; 1: at once.")


def split_tables(tree: Any) -> Any:
    """A schema's tree with `tables: {name: {rows: n, ids: kind}}` as `tables: {name: n}` and `open_ids: {name: kind}`.

    Raises ValueError for a table that has other keys."""
    if not isinstance(tree, Mapping) or not isinstance(tree.get("tables"), Mapping):
        return tree
    rows, kinds = dict(tree["tables"]), dict(tree.get("open_ids") or {})
    for name, of in tree["tables"].items():
        if not isinstance(of, Mapping):
            continue
        if "rows" not in of or set(of) - {"rows", "ids"}:
            raise ValueError(f"table {name}: expected a number of ids, or rows and ids, got {dict(of)}")
        rows[name] = of["rows"]
        kinds.pop(name, None)
        if (kind := of.get("ids", "range")) != "range":
            kinds[name] = kind
    return {**tree, "tables": rows} | ({"open_ids": kinds} if kinds or "open_ids" in tree else {})


def buckets_of(rows: int) -> int:
    """Buckets of a dynamic table that holds so many ids. An id has its place in one of them, whatever the ranks."""
    return next((count for count in _BUCKETS if rows // count >= _BUCKET_ROWS), 1)


def dynamic_rows(rows: int) -> int:
    """Rows of the embedding table: those of ids and the extra ones, rounded up to buckets of one size."""
    buckets = buckets_of(rows)
    return -(-(rows + EXTRA_ROWS) // buckets) * buckets


def expected_sharing(ids: int, rows: int) -> float:
    """Share of `ids` distinct ids that share a row with another one, where each falls on any of the rows alike."""
    return 1.0 - (1.0 - 1.0 / rows) ** max(ids - 1, 0)
