"""What a dataset needs of its tables without a range of ids: distinct ids, and how many of them share a row."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dist_rec.common.id_hash import hashed_rows
from dist_rec.common.open_ids import expected_sharing
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.data.transfer_buffer import shrink_ids

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class OpenTable:
    """A table over all splits: `distinct` raw ids, of which it holds `rows`.

    `expected` and `measured`: share of the distinct ids that share a row with another one, if they are hashed; for
    dynamic ids those that it would have if they were."""

    name: str
    kind: str
    distinct: int
    rows: int
    expected: float
    measured: float


@dataclass
class RawIds:
    """Collects the distinct ids of every key of an open table over batches that carry raw ids."""

    schema: Schema
    _parts: dict[str, list[Ints]] = field(default_factory=dict)  # by key

    @classmethod
    def unhashed(cls, schema: Schema) -> Schema:
        """The schema whose batches carry raw ids in hashed tables, too."""
        return schema.model_copy(update={"open_ids": dict.fromkeys(schema.open_ids, "dynamic")})

    @property
    def keys(self) -> list[str]:
        return [key for key, table in self.schema.layout.tables.items() if table in self.schema.open_ids]

    def add(self, batch: HostBatch) -> None:
        for key in self.keys:
            parts = self._parts.setdefault(key, [])
            parts.append(np.unique(batch.ids_of(key).numpy()))
            if len(parts) > 1 and sum(map(len, parts[1:])) >= len(parts[0]):  # each id is sorted a few times in all
                parts[:] = [np.unique(np.concatenate(parts))]

    def saved_bytes(self, batch: HostBatch) -> int:
        """How many bytes fewer the batch would have, had its hashed ids been sent as rows."""
        saved = 0
        for key in self.keys:
            if self.schema.open_ids[table := self.schema.layout.tables[key]] == "hashed":
                rows = shrink_ids(batch.ids_of(key)[:0], self.schema.rows_of(table))
                saved += batch.num_unique[key] * (batch.tensors[f"ids.{key}"].itemsize - rows.itemsize)
        return saved

    def distinct(self, key: str) -> Ints:
        return np.unique(np.concatenate([np.zeros(0, np.int64), *self._parts.get(key, [])]))

    def reports(self) -> list[OpenTable]:
        found = []
        for name, kind in self.schema.open_ids.items():
            keys = [key for key in self.keys if self.schema.layout.tables[key] == name]
            ids = np.unique(np.concatenate([np.zeros(0, np.int64), *map(self.distinct, keys)]))
            rows = self.schema.tables[name]
            _, inverse, counts = np.unique(hashed_rows(ids, rows), return_inverse=True, return_counts=True)
            measured = float((counts[inverse.reshape(-1)] > 1).mean()) if len(ids) else 0.0
            found.append(OpenTable(name, kind, len(ids), rows, expected_sharing(len(ids), rows), measured))
        return found


def render(tables: list[OpenTable]) -> Table:
    """One row per table, for a terminal."""
    shown = Table("table", "ids", title="ids without a range")
    for header in ("distinct", "held", "share a row if hashed: expected", "measured"):
        shown.add_column(header, justify="right")
    for of in tables:
        shown.add_row(of.name, of.kind, f"{of.distinct:,}", f"{of.rows:,}", f"{of.expected:.1%}", f"{of.measured:.1%}")
    return shown
