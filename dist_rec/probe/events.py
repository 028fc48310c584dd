"""The events of one sequence, and candidates behind them, as a probe reads them.

Legend: B requests, N events of all of them, C candidates, F fields with ids, S side values.
"""

from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import CANDIDATE, Ints, expand_ranges, ragged_values
from dist_rec.data.owners import SequenceSchema
from dist_rec.data.schema import Schema

GAPS = 64  # buckets of the time between events, two per doubling of seconds; GAPS itself: not known


@dataclass(frozen=True)
class Events:
    """- `ids` (N, F), `side` (N, S), `gap` (N,) int64: the bucket of the seconds since the event before
    - `lengths` (B,) int64: rows of each request, of which the last `candidates` (B,) are candidates
    - `visible` (C,) int64: how many of the oldest events a candidate sees
    """

    ids: Ints
    side: Ints
    gap: Ints
    lengths: Ints
    candidates: Ints
    visible: Ints

    @property
    def starts(self) -> Ints:
        return np.cumsum(self.lengths) - self.lengths

    @property
    def is_event(self) -> NDArray[np.bool_]:
        """(N,) False for candidates."""
        row, place = expand_ranges(self.starts, self.lengths)
        return place - self.starts[row] < (self.lengths - self.candidates)[row]

    def take(self, requests: Ints, newest: int) -> "Events":
        """Of some requests, without candidates, the newest events."""
        assert not self.candidates.any(), "a candidate has no newest events"
        lengths = np.minimum(self.lengths[requests], newest)
        _, index = expand_ranges((self.starts + self.lengths)[requests] - lengths, lengths)
        return replace(self.at(index), lengths=lengths, candidates=np.zeros_like(lengths))

    def at(self, index: Ints) -> "Events":
        return replace(self, ids=self.ids[index], side=self.side[index], gap=self.gap[index])


def sequence_of(schema: Schema, name: str | None) -> SequenceSchema:
    """The sequence of this name; None for the only one. Raises ConfigError, also for ids without a range."""
    known = {sequence.name: sequence for sequence in schema.sequences}
    name = next(iter(known)) if name is None and len(known) == 1 else name
    if name not in known:
        raise ConfigError(f"--sequence: expected one of {', '.join(known)}, got {name or 'none'}")
    if of := [field.table for field in known[name].ids if field.table in schema.open_ids]:
        raise ConfigError(
            f"a probe has a row for every id of {name}, but table {of[0]} has {schema.open_ids[of[0]]} ids"
        )
    return known[name]


def shares_tokens(schema: Schema, sequence: SequenceSchema) -> bool:
    """Whether candidates have the ids of the sequence's events, so that one probe fits both."""
    mine, theirs = ([(field.name, field.table) for field in of.ids] for of in (sequence, schema.candidate))
    return mine == theirs


def read_events(table: pa.Table, sequence: SequenceSchema, *, backward: bool) -> Events:
    """The events of a sequence, oldest first, or newest first with the gap to the event after."""
    columns = {field.name: ragged_values(table, f"{sequence.name}.{field.name}") for field in sequence.ids}
    first = next(iter(columns.values()))
    lengths = first.lengths
    side = [ragged_values(table, f"{sequence.name}.{name}").values for name in sequence.side]
    gap = np.full(len(first.values), GAPS, dtype=np.int64)
    if sequence.time:
        time = ragged_values(table, f"{sequence.name}.time").values.astype(np.int64)
        seconds = np.diff(time, prepend=time[:1])
        gap = np.minimum(2 * np.log2(np.maximum(seconds, 0) + 1.0), GAPS - 1).astype(np.int64)
        gap[(first.offsets[:-1])[lengths > 0]] = GAPS
    events = Events(
        ids=np.stack([column.values.astype(np.int64) for column in columns.values()], axis=1),
        side=np.stack([of.astype(np.int64) for of in side], axis=1) if side else np.zeros((len(gap), 0), np.int64),
        gap=gap,
        lengths=lengths,
        candidates=np.zeros_like(lengths),
        visible=np.zeros(0, np.int64),
    )
    if not backward:
        return events
    after = np.append(gap[1:], GAPS)[: len(gap)]  # the gap of an event to the one after it
    after[(first.offsets[1:] - 1)[lengths > 0]] = GAPS
    return replace(events, gap=after).at(turned_round(first.offsets))


def turned_round(offsets: Ints) -> Ints:
    """(N,) index that reverses every sequence; its own inverse."""
    row, place = expand_ranges(offsets[:-1], np.diff(offsets))
    return offsets[row] + offsets[row + 1] - 1 - place


def with_candidates(
    events: Events, table: pa.Table, schema: Schema, sequence: SequenceSchema, *, backward: bool
) -> Events:
    """Every request's candidates behind its events, with side values and times that are not known. Backward, nothing
    stands before a candidate: it sees no event."""
    columns = [ragged_values(table, f"{CANDIDATE}.{field.name}") for field in schema.candidate.ids]
    lengths = columns[0].lengths
    ids = np.stack([column.values.astype(np.int64) for column in columns], axis=1)
    unknown = np.tile(np.array(list(sequence.side.values()), dtype=np.int64), (len(ids), 1))
    visible = np.repeat(events.lengths, lengths)
    if schema.candidate.visible_events:
        visible = ragged_values(table, f"{CANDIDATE}.visible_events").values.astype(np.int64)
    request = np.concatenate([np.repeat(np.arange(len(lengths)), of) for of in (events.lengths, lengths)])
    order = np.argsort(request, kind="stable")
    return Events(
        ids=np.concatenate([events.ids, ids])[order],
        side=np.concatenate([events.side, unknown.reshape(len(ids), -1)])[order],
        gap=np.concatenate([events.gap, np.full(len(ids), GAPS)])[order],
        lengths=events.lengths + lengths,
        candidates=lengths,
        visible=np.zeros_like(visible) if backward else visible,
    )
