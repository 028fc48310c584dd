"""Events of users -> their states: everything at first, later only what has changed.

A state of a group of events follows from the events of the group and their places alone (their ids, values, positions
and buckets of age). So the numbers that it follows from are kept with it, and it is computed anew where they differ:
after an event was appended or an age went into its next bucket. What follows is exact for every model and recipe; what
is saved depends on them. Positions counted from the newest event move with every event, and nothing is saved.

Legend: B users, N events of one sequence, M groups of K events, W width of a part.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.collate import Collator
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.lengths import Lengths, Slots
from dist_rec.kernels.unique_ids import BitPackedIndex, unpack_index
from dist_rec.models.halves import Halves, Rows
from dist_rec.models.layers.jagged import Jagged
from dist_rec.models.protocol import EventStates
from dist_rec.serve.aging import BucketEnds
from dist_rec.serve.columns import event_columns
from dist_rec.serve.tables import Tables
from dist_rec.serve.user_state import FOREVER, SequenceState, UserState

NOTHING = -(2**31)  # in the inputs of a group, where it has no event
MOST_CAME = 64  # groups; after more of them everything is made anew


@dataclass(frozen=True)
class Encoder:
    """Makes states of `version` on `device`."""

    version: str
    collator: Collator
    tables: Tables
    halves: Halves
    ends: BucketEnds
    device: torch.device

    @torch.no_grad()
    def __call__(self, requests: pa.Table, before: Sequence[UserState | None]) -> list[UserState]:
        """The states of B users, whose events and request times are in `requests`; other columns are not read.

        `before` are earlier states of the same users, whose events are the oldest of these, or some other ones: what
        is the same is taken from there."""
        host = self.collator(requests)
        batch = host.without_lookup(self.device)
        rows = self.halves.rows(self.tables.rows(host.ids_of), batch)
        pools = self.halves.pools(rows, batch)
        schema = self.collator.schema
        found: list[dict[str, SequenceState]] = [{} for _ in before]
        for of in schema.sequences:
            earlier = [None if state is None else state.sequences[of.name] for state in before]
            states = self._sequence(of.name, host, batch, rows, earlier)
            for user, state in enumerate(states):
                pool = pools[of.name][user].clone() if of.name in pools else None
                found[user][of.name] = replace(state, pool=pool)
        times = np.zeros(len(before), np.int64)
        if schema.request.time is not None:
            times = requests.column(schema.request.time).to_numpy()
        left = self._left(batch, len(before))
        events = requests.select(event_columns(schema))
        return [
            UserState(
                version=self.version,
                events=pa.Table.from_batches([_own(events, user)]),
                as_of=int(times[user]),
                until=min(int(times[user]) + left[user], FOREVER),
                sequences=found[user],
            )
            for user in range(len(before))
        ]

    def _left(self, batch: SequenceBatch, users: int) -> list[int]:
        """Seconds for which the ages of each user's events stay in their buckets."""
        found = [FOREVER] * users
        for events in batch.sequences.values():
            if events.age is not None:
                for user, ages in enumerate(events.age.cpu().split(events.lengths.host.tolist())):
                    found[user] = min(found[user], self.ends.left(ages))
        return found

    def _sequence(
        self, name: str, host: HostBatch, batch: SequenceBatch, rows: Rows, before: list[SequenceState | None]
    ) -> list[SequenceState]:
        """The states of all users of one sequence, without their pools."""
        body, events = self.halves.ranker.body, batch.sequences[name]
        size = body.group_size(name)
        lengths = events.lengths
        groups = lengths.map(lambda n: (n + size - 1) // size)
        place = _places(lengths.host, groups.host, size)
        inputs = self._inputs(name, host, batch)
        grid = inputs.new_full((groups.total * size, inputs.shape[1]), NOTHING).index_copy_(0, place, inputs)
        grid = grid.view(groups.total, size * inputs.shape[1])
        if body.rotates(name):
            grid = torch.cat([grid, groups.position.int()[:, None]], dim=1)
        grids = grid.split(groups.host.tolist())
        source = [_same(mine, of) for mine, of in zip(grids, before, strict=True)]
        fresh = torch.cat([of < 0 for of in source]) if source else torch.zeros(0, dtype=torch.bool)
        fresh[body.read_again(name, groups)] = True
        some = events if bool(fresh.all()) else _some(events, fresh[place // size])
        made = self.halves.event_states(name, rows, batch, some)
        index = fresh.nonzero()[:, 0]
        taken = {part: [None if of is None else of.kept[part] for of in before] for part in made.kept}
        kept = {part: _joined(of, index, groups, source, taken[part]) for part, of in made.kept.items()}
        passing = {part: _spread(of, index, groups.total) for part, of in made.passing.items()}
        encoded = self.halves.encode(name, EventStates(kept, passing), groups, self.device)
        parts = {part: of.split(groups.host.tolist()) for part, of in kept.items()}
        more = {part: of.values.split(of.lengths.host.tolist()) for part, of in encoded.items()}
        return [
            SequenceState(
                events=int(lengths.host[user]),
                inputs=grids[user].clone(),
                kept={part: of[user].clone() for part, of in parts.items()},
                encoded={part: of[user].clone() for part, of in more.items()},
                pool=None,
            )
            for user in range(len(before))
        ]

    def _inputs(self, name: str, host: HostBatch, batch: SequenceBatch) -> Tensor:
        """(N, w) int32: ids, ids of n-grams, places and values of every event."""
        events, layout = batch.sequences[name], self.collator.schema.layout
        index = _unpacked(events.inverse)
        ids = [host.ids_of(key)[index] for key in layout.owners[name].keys]
        for owner, gram in events.ngrams.items():
            of_events = host.ids_of(owner)[_unpacked(gram)].view(len(index), -1)
            ids += list(of_events.unbind(1))
        columns = torch.stack(ids, dim=1).view(torch.int32)  # two of them for an id
        return torch.cat([columns, self.halves.inputs(name, batch)], dim=1)


def joined_states(states: Sequence[UserState], name: str, size: int) -> tuple[dict[str, Jagged], Lengths]:
    """The parts of one sequence of B users, and how many events each has."""
    of = [state.sequences[name] for state in states]
    events = np.array([each.events for each in of], np.int32)
    groups = -(-events // size)
    found = {part: _jagged([each.kept[part] for each in of], groups) for part in of[0].kept}
    for part in of[0].encoded:
        parts = [each.encoded[part] for each in of]
        found[part] = _jagged(parts, np.array([len(each) for each in parts], np.int32))
    return found, Lengths(torch.from_numpy(events), events)


def _jagged(parts: list[Tensor], lengths: NDArray[np.int32]) -> Jagged:
    return Jagged(parts[0] if len(parts) == 1 else torch.cat(parts), Lengths(torch.from_numpy(lengths), lengths))


def _own(events: pa.Table, user: int) -> pa.RecordBatch:
    """The row of a user in memory of its own: a slice would keep those of all users."""
    return events.take(pa.array([user])).combine_chunks().to_batches()[0]


def _places(lengths: NDArray[np.int32], groups: NDArray[np.int32], size: int) -> Tensor:
    """(N,) int64: the place of every event among M * K, an incomplete group padded at its oldest end."""
    shift = np.cumsum(groups * size - lengths)
    return torch.from_numpy(np.arange(int(lengths.sum())) + np.repeat(shift, lengths))


def _same(mine: Tensor, before: SequenceState | None) -> Tensor:
    """(M,) int64: the earlier group with the same inputs as each group, -1 where there is none.

    Groups keep their order. How many came and went at the ends follows from the newest earlier group that is still
    there, with most of its neighbours."""
    found = torch.full((len(mine),), -1)
    if before is None or len(before.inputs) == 0 or len(mine) == 0 or before.inputs.shape[1] != mine.shape[1]:
        return found
    earlier = before.inputs
    best = torch.zeros(0, dtype=torch.int64)
    for came in range(min(len(mine), len(earlier)) + 1):
        end = len(mine) - came  # the newest earlier group is the one before this place
        count = min(end, len(earlier))
        if count == 0:
            break
        equal = (mine[end - count : end] == earlier[len(earlier) - count :]).all(1).nonzero()[:, 0]
        if len(equal) > len(best):
            best, start, first = equal, end - count, len(earlier) - count
            found = torch.full((len(mine),), -1).index_copy_(0, start + best, first + best)
        if 2 * len(best) >= count or came >= MOST_CAME:
            break
    return found


def _some(events: JaggedEvents, chosen: Tensor) -> JaggedEvents:
    """The events that are `chosen` (N,), at the places that they have among all."""
    lengths = events.lengths
    index = chosen.nonzero()[:, 0]
    position = lengths.position[index].int()
    host = chosen.numpy()
    counts = np.bincount(np.repeat(np.arange(len(lengths)), lengths.host)[host], minlength=len(lengths)).astype(
        np.int32
    )
    slots = Slots(position, position.numpy(), lengths)
    grams = {}
    for name, gram in events.ngrams.items():
        each = _unpacked(gram)
        per_event = len(each) // max(len(chosen), 1)
        grams[name] = each.view(-1, per_event)[index].flatten()
    return JaggedEvents(
        lengths=Lengths(torch.from_numpy(counts), counts, slots=slots),
        inverse=_unpacked(events.inverse)[index],
        side={name: of[index] for name, of in events.side.items()},
        age=None if events.age is None else events.age[index],
        ngrams=grams,
        numbers={name: of[index] for name, of in events.numbers.items()},
    )


def _unpacked(index: Tensor | BitPackedIndex) -> Tensor:
    return index if isinstance(index, Tensor) else unpack_index(index)


def _spread(values: Tensor, index: Tensor, count: int) -> Tensor:
    """(count, W) with the values (n, W) at `index` (n,), zeros elsewhere."""
    if len(index) == count:
        return values
    return values.new_zeros(count, values.shape[1]).index_copy_(0, index, values)


def _joined(
    values: Tensor, index: Tensor, groups: Lengths, source: list[Tensor], before: list[Tensor | None]
) -> Tensor:
    """(M, W): new values (n, W) at `index` (n,), and earlier ones of each user at the others."""
    whole = _spread(values, index, groups.total)
    if len(index) == groups.total:
        return whole
    fresh = torch.zeros(groups.total, dtype=torch.bool).index_fill_(0, index, True)
    for own, new, of, earlier in zip(
        whole.split(groups.host.tolist()), fresh.split(groups.host.tolist()), source, before, strict=True
    ):
        old = (~new).nonzero()[:, 0]
        if len(old):
            assert earlier is not None, "what is the same was there before"
            own.index_copy_(0, old, earlier[of[old]])
    return whole
