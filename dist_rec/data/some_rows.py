"""Some rows of a table, and the entries of their lists. Legend: B rows, N entries of all their lists."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import Ints, one_array, scalar_values
from dist_rec.data.gather import gather


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

    def lists(self, name: str, max_length: int | None = None) -> "Lists":
        """A list column, of every row its last `max_length` entries."""
        array = one_array(self.table, name)
        offsets = array.offsets.to_numpy()
        ends = offsets[1:][self.rows].astype(np.int64)
        lengths = (ends - offsets[:-1][self.rows]).clip(max=max_length)
        return Lists(array.values.to_numpy(), ends - lengths, lengths)


@dataclass(frozen=True)
class Lists:
    """A list column of B rows: entries `starts[b]` to `starts[b] + lengths[b]` of all `entries`."""

    entries: NDArray
    starts: Ints
    lengths: Ints

    @property
    def values(self) -> NDArray:
        """(N,) the entries of one row after the other."""
        return gather(self.entries, self.starts, self.lengths)
