"""The rows of one lane (plan.py) in one epoch, in their shuffled order.

A lane reads its row groups a **window** at a time and permutes the rows of the window. Batches are cut from the
permuted rows: at numbers of rows (`Rows`), or at numbers of events (`Part`).

**Cuts by events.** P parts of a lane end at equal distances in its events, as the footers count them. A window holds
known distances, so the windows of a part are known before they are read. Within a window, each row covers a stretch
by its weight, and belongs to the part that its middle lies in. Weights are scaled to the window's count in the footers,
which do not know what `max_length` cuts. What a row belongs to depends on the lane and on nothing read before, so any
part can be read at any time, and every row is in exactly one. No part is left without rows, as long as the window has
as many rows as parts: a row longer than a part is one, and the rows beside it are spread over the parts it covers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import Ints, arrow_schema, one_array, scalar_values
from dist_rec.data.errors import DataError
from dist_rec.data.files import RowGroup, warn_once
from dist_rec.data.plan import Part, Rows, generator
from dist_rec.data.row_reader import RowReader
from dist_rec.data.schema import Schema
from dist_rec.data.shares import joined


class Lane:
    """Reads one window at a time, and holds it until it needs another.

    Args:
        groups: in reading order.
        window: consecutive row groups with at least so many rows are permuted together; 0 keeps their order.
        share_histories: whether requests of one user in a window follow each other.
        place: numbers that the permutations depend on: the seed, and the epoch.
        max_length: events of a sequence that count; None: all of them.
        skip_unreadable: leave out row groups that cannot be read, and say so; `lost` counts their rows.
    """

    def __init__(
        self,
        rows: RowReader,
        schema: Schema,
        groups: Sequence[RowGroup],
        *,
        window: int,
        place: tuple[int, int],
        max_length: int | None,
        share_histories: bool = False,
        skip_unreadable: bool = False,
    ) -> None:
        self.rows, self.schema, self.max_length, self.share = rows, schema, max_length, share_histories
        self.shuffled, self.place, self.skip, self.lost = window > 0, place, skip_unreadable, 0
        self.windows = _windows(groups, window)
        self._starts = np.cumsum([0, *(sum(group.rows for group in window) for window in self.windows)])
        self._event_starts = np.cumsum([0, *(sum(group.events or 0 for group in window) for window in self.windows)])
        self._loaded: _Window | None = None

    def read(self, batch: Rows | Part) -> tuple[pa.Table, Ints] | None:
        """A table, and which of its rows (B,) are the batch, in this order; None if the lane has none for it."""
        if isinstance(batch, Rows):
            spans, is_last = self._spans_of_rows(batch), batch.first + batch.count >= self._starts[-1]
        else:
            spans, is_last = self._spans_of_part(batch), batch.number + 1 == batch.parts
        parts: list[tuple[pa.Table, Ints]] = []
        for window, start, stop, ends_here in spans:
            loaded = self._load(window)
            table, rows = loaded.table, loaded.order[start:stop]
            if not ends_here:  # what is needed of this window is copied, so that it can go before the next one comes
                table, rows = table.take(pa.array(rows)), np.arange(len(rows))
            parts.append((table, rows))
            del loaded, table
        if is_last:
            self._loaded = None  # nothing is left to read of it
        return joined(parts)

    def places(self, batch: Rows | Part) -> list[tuple[RowGroup, int]]:
        """The row group of every row of a batch, and its number there, in order. Reads the windows of the batch."""
        spans = self._spans_of_rows(batch) if isinstance(batch, Rows) else self._spans_of_part(batch)
        found: list[tuple[RowGroup, int]] = []
        for window, start, stop, _ in spans:
            loaded = self._load(window)
            begins = np.cumsum([0, *(group.rows for group in loaded.groups)])
            for row in loaded.order[start:stop].tolist():
                group = int(np.searchsorted(begins, row, side="right")) - 1
                found.append((loaded.groups[group], row - int(begins[group])))
        return found

    def _spans_of_rows(self, batch: Rows) -> Iterator[tuple[int, int, int, bool]]:
        """Window, first row and end in its order, and whether the batch ends in it."""
        first, end = batch.first, min(batch.first + batch.count, int(self._starts[-1]))
        while first < end:
            window = int(np.searchsorted(self._starts, first, side="right")) - 1
            start, stop = int(self._starts[window]), min(end, int(self._starts[window + 1]))
            yield window, first - start, stop - start, stop == end
            first = stop

    def _spans_of_part(self, batch: Part) -> Iterator[tuple[int, int, int, bool]]:
        """As `_spans_of_rows`."""
        ends = self._event_starts * batch.parts / max(self._event_starts[-1], 1)
        touched = np.flatnonzero((np.floor(ends[:-1]) <= batch.number) & (batch.number < np.ceil(ends[1:]))).tolist()
        for window in touched:
            part = self._parts(window, ends[window], ends[window + 1])
            start, stop = np.searchsorted(part, [batch.number, batch.number + 1]).tolist()
            if start < stop:
                yield window, start, stop, window == touched[-1]

    def _load(self, window: int) -> "_Window":
        if self._loaded is None or self._loaded.number != window:
            self._loaded = None  # frees the old window before the new one is read
            # One chunk per column: reading rows would join several chunks again for every batch.
            table, groups = self._read(self.windows[window])
            table = table.combine_chunks()
            order = np.arange(table.num_rows)
            if self.shuffled:
                order = generator(*self.place, window).permutation(table.num_rows)
            if self.share:
                order = side_by_side(order, scalar_values(table, self.schema.request.grouping_key))
            self._loaded = _Window(window, table, order, groups)
        return self._loaded

    def _read(self, groups: Sequence[RowGroup]) -> tuple[pa.Table, Sequence[RowGroup]]:
        """The rows of these groups, and which of them they are of."""
        try:
            return self.rows.read(groups, self.schema), groups
        except DataError:
            if not self.skip:
                raise
        tables, there = [arrow_schema(self.schema).empty_table()], list[RowGroup]()
        for group in groups:
            try:
                tables.append(self.rows.read([group], self.schema))
                there.append(group)
            except DataError as error:
                self.lost += group.rows
                warn_once(f"left out, since data.unreadable is skip: {group.rows} requests: {error}")
        return pa.concat_tables(tables[1:] or tables), there

    def _parts(self, window: int, low: float, high: float) -> Ints:
        loaded = self._load(window)
        if not len(loaded.order):
            return loaded.order
        return parts_of_rows(self._weights(loaded.table)[loaded.order], low, high)

    def _weights(self, table: pa.Table) -> Ints:
        """(rows,) events of all sequences; as in a Parquet footer, an empty sequence counts as one."""
        weights = np.zeros(table.num_rows, np.int64)
        for sequence in self.schema.sequences:
            if sequence.once:
                lengths = one_array(table, f"{sequence.name}.events").to_numpy()
            else:
                lengths = np.diff(one_array(table, f"{sequence.name}.{sequence.ids[0].name}").offsets.to_numpy())
            weights += lengths.clip(1, self.max_length)
        return weights


@dataclass(frozen=True)
class _Window:
    """Window `number`: the rows of its `groups` that can be read, and their `order` (rows,)."""

    number: int
    table: pa.Table
    order: Ints
    groups: Sequence[RowGroup]


def side_by_side(order: Ints, users: NDArray) -> Ints:
    """(rows,) the same order, but the rows of each user follow the first one of them; `users` (rows,) by row."""
    _, first, which = np.unique(users[order], return_index=True, return_inverse=True)
    return order[np.argsort(first[which], kind="stable")]


def parts_of_rows(weights: Ints, low: float, high: float) -> Ints:
    """(rows,) part of each row, ascending, of rows with these (rows,) weights from 1 on. They cover the stretch from
    `low` to `high`, in which part p is from p to p + 1. Every part that the stretch touches gets a row if there are as
    many rows as such parts."""
    first, last, count = math.floor(low), math.ceil(high) - 1, len(weights)
    ends = np.cumsum(weights)
    middle = (ends - weights / 2) / ends[-1]
    part = np.clip(np.floor(low + middle * (high - low)).astype(np.int64), first, last)
    if count <= last - first:
        return part
    row = np.arange(count)
    part[0] = first
    part = np.minimum.accumulate(part - row) + row  # after a row longer than a part, no part is skipped
    return np.maximum(part, last - row[::-1])  # nor before one at the end


def _windows(groups: Sequence[RowGroup], rows: int) -> list[list[RowGroup]]:
    """Consecutive row groups gathered until they hold at least `rows` rows."""
    windows: list[list[RowGroup]] = []
    num_rows = rows
    for group in groups:
        if num_rows >= rows:
            windows.append([])
            num_rows = 0
        windows[-1].append(group)
        num_rows += group.rows
    return windows
