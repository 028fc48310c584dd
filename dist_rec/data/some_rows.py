"""Some rows of a table, and the entries of their lists. Legend: B rows."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import Ints, one_array, scalar_values
from dist_rec.data.event_store import open_store, place_of
from dist_rec.data.gather import Lists


@dataclass(frozen=True)
class SomeRows:
    """Rows of a table, in the order of `rows` (B,)."""

    table: pa.Table
    rows: Ints

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, chosen: NDArray[np.bool_]) -> "SomeRows":
        """The rows that are `chosen` (B,)."""
        return SomeRows(self.table, self.rows[chosen])

    def scalars(self, name: str) -> NDArray:
        """(B,) of a column with one value per row."""
        return scalar_values(self.table, name)[self.rows]

    @cached_property
    def _events_at(self) -> Path | None:
        """Where events are that are stored once."""
        return place_of(self.table)

    def lists(self, name: str, max_length: int | None = None) -> "Lists":
        """A list column, of every row its last `max_length` entries; it may be stored once for each user."""
        if (name, max_length) not in self._found:
            self._found[name, max_length] = self._lists(name, max_length)
        return self._found[name, max_length]

    @cached_property
    def _found(self) -> dict[tuple[str, int | None], "Lists"]:
        """Values and lengths of a column are asked for apart."""
        return {}

    def _lists(self, name: str, max_length: int | None) -> "Lists":
        if self._events_at is not None and name not in self.table.column_names:
            owner, _, field = name.partition(".")
            users, events = (self.scalars(f"{owner}.{of}").astype(np.int64) for of in ("user", "events"))
            return open_store(self._events_at, owner).lists(field, users, events, max_length)
        array = one_array(self.table, name)
        offsets = array.offsets.to_numpy()
        ends = offsets[1:][self.rows].astype(np.int64)
        lengths = (ends - offsets[:-1][self.rows]).clip(max=max_length)
        return Lists(array.values.to_numpy(), ends - lengths, lengths)
