"""Columns with a list of ids for every candidate: lists of lists.

Legend: B rows, C candidates of all rows, M ids of all their lists.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import Column, FlatLists, Ints, expand_ranges, one_array
from dist_rec.data.gather import gather


@dataclass(frozen=True)
class Nested:
    """A column without nulls: candidates `rows[b]` to `rows[b + 1]` are those of row b, and `values[lists[c]]` to
    `values[lists[c + 1]]` the ids of candidate c."""

    rows: Ints
    lists: Ints
    values: NDArray

    @classmethod
    def of(cls, table: pa.Table, name: str) -> "Nested":
        array = one_array(table, name)
        inner = array.values
        rows, lists = (of.offsets.to_numpy().astype(np.int64) for of in (array, inner))
        return cls(rows, lists, _numbers(inner.values))

    def of_rows(self, rows: Ints) -> Ints:
        """The candidates of some rows, one row after the other."""
        return expand_ranges(self.rows[rows], np.diff(self.rows)[rows])[1]

    def of_candidates(self, candidates: Ints) -> FlatLists:
        lengths = np.diff(self.lists)[candidates]
        return FlatLists(gather(self.values, self.lists[candidates], lengths), lengths)


def nested_column(counts: Ints, lists: FlatLists) -> pa.Array:
    """A column of B rows with (B,) candidates each, and of all of them the lists."""
    inner = _ranges(lists.lengths, pa.array(lists.values))
    return _ranges(counts, inner)


def first_problem(table: pa.Table, column: Column) -> tuple[int, str, str] | None:
    """Row, what was expected and what came, of the first null or id that cannot be; None if all is well. There is no
    null among the rows."""
    array = one_array(table, column.name)
    rows = array.offsets.to_numpy().astype(np.int64)
    inner = array.values.slice(rows[0], rows[-1] - rows[0])
    if inner.null_count:
        place = int(np.argmax(inner.is_null().to_numpy(zero_copy_only=False)))
        row = _row_of(place, rows - rows[0])
        return row, "a list for every candidate", f"null at candidate {place + rows[0] - rows[row]}"
    lists = inner.offsets.to_numpy().astype(np.int64)
    values = inner.values.slice(lists[0], lists[-1] - lists[0])
    if values.null_count:
        return _found(values.is_null().to_numpy(zero_copy_only=False), rows, lists, "an id for every entry")
    ids = _numbers(values)
    bad = (ids < 0) | (ids >= column.size)
    return _found(bad, rows, lists, f"an id from 0 to {(column.size or 0) - 1}", ids) if bad.any() else None


def _found(
    bad: NDArray[np.bool_], rows: Ints, lists: Ints, expected: str, ids: NDArray | None = None
) -> tuple[int, str, str]:
    entry = int(np.argmax(bad))
    place = _row_of(entry, lists - lists[0])
    row = _row_of(place, rows - rows[0])
    candidate, within = place + rows[0] - rows[row], entry + lists[0] - lists[place]
    value = "null" if ids is None else ids[entry]
    return row, expected, f"{value} at entry {within} of candidate {candidate}"


def _row_of(index: int, offsets: Ints) -> int:
    return int(np.searchsorted(offsets, index, side="right")) - 1


def _numbers(values: pa.Array) -> NDArray:
    return values.to_numpy(zero_copy_only=False)


def _ranges(lengths: Ints, values: pa.Array) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), values)
