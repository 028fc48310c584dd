"""The rows of every rank and reader worker, for every step of every epoch.

A **lane** is one (rank, slot); a rank with W workers has W slots. Every epoch, row groups in seeded order are assigned
one by one to the lane with the least so far: the fewest rows (`RowPlan`), or the fewest events (`EventPlan`). A slot
has as many batches as the lane of it that needs most on any rank. Steps take one batch of every slot in turn, as long
as the slot has any, so that some rank has rows. All ranks compute this from the Parquet footers alone, so they agree
without communication.

A DataLoader takes batches from its workers in turn, so worker t mod W makes step t of the run, whatever its slot. While
all slots have batches, a worker stays with one slot. Later, or with fewer row groups than lanes, the workers read the
same row groups and take turns with their batches. All epochs have equally many steps: an epoch that needs fewer cuts
its batches smaller. A step has no rows on any rank only where no batch has two rows to cut, as with a batch size of 1.

The order of the row groups repeats after `ORDERS` epochs (the order of the rows does not), which bounds the time of a
start."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from dist_rec.data.columns import Ints
from dist_rec.data.files import RowGroup

ORDERS = 1000  # epochs until the row groups come in the same order again
EVENED_OUT = 4  # row groups per lane that are assigned largest first, where events are balanced


@dataclass(frozen=True)
class Rows:
    """A batch: `count` rows of a lane from row `first` on, fewer at the end of the lane."""

    first: int
    count: int


@dataclass(frozen=True)
class Part:
    """A batch: part `number` of a lane in `parts` with equally many events."""

    number: int
    parts: int


@dataclass(frozen=True)
class Epoch(ABC):
    """Lanes of one epoch, and per step (S,) its slot."""

    lanes: list[list[RowGroup]]  # of (slot 0, rank 0), (slot 0, rank 1), ...
    slot: Ints

    @abstractmethod
    def batch(self, step: int) -> Rows | Part:
        """What a lane of the step's slot gives to the step."""


@dataclass(frozen=True)
class RowEpoch(Epoch):
    """Per step (S,) the rows of the slot's lanes: `count` from `first` on; per slot the first row of its first step."""

    begin: Ints
    first: Ints
    count: Ints

    def batch(self, step: int) -> Rows:
        return Rows(int(self.first[step]), int(self.count[step]))


@dataclass(frozen=True)
class EventEpoch(Epoch):
    """Per step (S,) the `number` of its batch among the batches of its slot, and per slot how many these are."""

    number: Ints
    batches: Ints

    def batch(self, step: int) -> Part:
        return Part(int(self.number[step]), int(self.batches[self.slot[step]]))


class Steps(Protocol):
    """The steps of a run, as `Plan` has them."""

    @property
    def workers(self) -> int: ...
    @property
    def epochs(self) -> int: ...
    @property
    def steps(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def ends(self) -> list[int]: ...
    @property
    def empty_share(self) -> float: ...
    def epoch_end(self, step: int) -> int: ...
    def locate(self, step: int) -> tuple[int, int]: ...
    def epoch(self, epoch: int) -> Epoch: ...


class Plan(ABC):
    """The steps of a run. With `seed` None, row groups keep their order and all epochs are alike.

    `most`: rows or events of a batch."""

    def __init__(
        self, groups: Sequence[RowGroup], *, world_size: int, workers: int, most: int, epochs: int, seed: int | None
    ) -> None:
        self.groups, self.world_size, self.workers = groups, world_size, workers
        self.most, self.seed, self._epochs = most, seed, epochs
        self._latest: tuple[int, Epoch] | None = None

    @abstractmethod
    def size(self, group: RowGroup) -> int:
        """What lanes have equally much of."""

    @property
    def epochs(self) -> int:
        """Of the run."""
        return self._epochs

    @property
    @abstractmethod
    def empty_share(self) -> float:
        """Share of the room in the ranks' batches in the first epoch that stays empty since lanes differ."""

    def _placing(self, groups: Sequence[RowGroup]) -> Sequence[int]:
        """Places in `groups`, in the order in which they are assigned; lanes read them in the order of `groups`."""
        return range(len(groups))

    @abstractmethod
    def _batches(self, lanes: list[list[RowGroup]]) -> Ints:
        """(slots, ranks) batches that each lane needs."""

    @abstractmethod
    def _epoch(self, lanes: list[list[RowGroup]], batches: Ints) -> Epoch:
        """`self.steps` steps; `batches` (slots,) of each slot are no more in all."""

    def assign(self, epoch: int) -> list[list[RowGroup]]:
        """Row groups of every lane in reading order. Lanes of slot 0 come first: they get rows first."""
        order = range(len(self.groups))
        if self.seed is not None:
            order = generator(self.seed, epoch % ORDERS).permutation(len(self.groups)).tolist()
        groups = [self.groups[index] for index in order]
        lanes: list[list[int]] = [[] for _ in range(self.world_size * self.workers)]
        heap = [(0, lane) for lane in range(len(lanes))]
        for place in self._placing(groups):
            held, lane = heap[0]
            heapq.heapreplace(heap, (held + self.size(groups[place]), lane))
            lanes[lane].append(place)
        return [[groups[place] for place in sorted(lane)] for lane in lanes]

    @property
    def steps(self) -> int:
        """Steps of every epoch: the most that any epoch needs."""
        return self._steps

    @cached_property
    def _steps(self) -> int:
        alike = self.seed is None or len({(group.rows, self.size(group)) for group in self.groups}) == 1
        epochs = 1 if alike else min(self.epochs, ORDERS)
        return max(int(self._batches(self.assign(epoch)).max(axis=1).sum()) for epoch in range(epochs))

    @property
    def total(self) -> int:
        """Steps of the run."""
        return self.epochs * self.steps

    @property
    def ends(self) -> list[int]:
        """Steps of the run that are done when a stage is: there is one."""
        return [self.total]

    def epoch_end(self, step: int) -> int:
        """The first end of an epoch after this many steps of the run."""
        return step + self.steps - step % self.steps

    def locate(self, step: int) -> tuple[int, int]:
        """The epoch that a step of the run lies in, and its place there."""
        return divmod(step, self.steps)

    def epoch(self, epoch: int) -> Epoch:
        """The rows of an epoch's steps; the latest epoch is cached."""
        if self._latest is None or self._latest[0] != epoch:
            lanes = self.assign(epoch)
            self._latest = (epoch, self._epoch(lanes, self._batches(lanes).max(axis=1)))
        return self._latest[1]

    def _table(self, of_lanes: Sequence[int]) -> Ints:
        """(slots, ranks)"""
        return np.array(of_lanes, dtype=np.int64).reshape(self.workers, self.world_size)

    def _rows(self, lanes: list[list[RowGroup]]) -> Ints:
        """(slots, ranks)"""
        return self._table([sum(group.rows for group in groups) for groups in lanes])


class RowPlan(Plan):
    """Batches of `most` rows; the last ones of a lane hold fewer, or none."""

    def size(self, group: RowGroup) -> int:
        return group.rows

    @property
    def empty_share(self) -> float:
        batches = self._batches(self.assign(0))
        return 1 - float(batches.sum() / (self.world_size * batches.max(axis=1).sum()))

    def longest(self, lanes: list[list[RowGroup]]) -> Ints:
        """(slots,) rows of the longest lane of each slot."""
        return self._rows(lanes).max(axis=1)

    def _batches(self, lanes: list[list[RowGroup]]) -> Ints:
        return -(-self._rows(lanes) // self.most)

    def _epoch(self, lanes: list[list[RowGroup]], batches: Ints) -> RowEpoch:
        turn, slot = in_turn(batches)
        first, count = turn * self.most, np.full(len(slot), self.most)
        longest = self.longest(lanes)
        for _ in range(self.steps - len(slot)):
            rows = np.minimum(count, longest[slot] - first)
            largest = len(rows) - 1 - int(np.argmax(rows[::-1]))  # the last one: after it, workers change places
            half = int(rows[largest]) // 2  # 0 only if no batch has two rows; that step then stays empty
            slot = np.insert(slot, largest, slot[largest])
            first = np.insert(first, largest, first[largest])
            count = np.insert(count, largest, half)
            first[largest + 1] += half
            count[largest + 1] -= half
        return RowEpoch(lanes, slot, np.zeros_like(batches), first, count)


class EventPlan(Plan):
    """Batches of about `most` events, and in a step about as many on every rank. Every row group has its `events`.

    Every lane of a slot is cut into as many parts as the lane with the most events needs, each lane into equal parts.
    No lane is cut into more parts than some lane of its slot has rows."""

    def size(self, group: RowGroup) -> int:
        assert group.events is not None, "the reader has checked it"
        return group.events

    @property
    def empty_share(self) -> float:
        events = self._events(self.assign(0))
        return 1 - float(events.sum() / (self.world_size * events.max(axis=1).sum()))

    def _placing(self, groups: Sequence[RowGroup]) -> Sequence[int]:
        # Largest first at the end evens the lanes out. Not from the start: the same row groups would stay together.
        end = max(len(groups) - EVENED_OUT * self.world_size * self.workers, 0)
        return [*range(end), *sorted(range(end, len(groups)), key=lambda place: -self.size(groups[place]))]

    def _batches(self, lanes: list[list[RowGroup]]) -> Ints:
        return np.minimum(-(-self._events(lanes) // self.most), self._rows(lanes))

    def _epoch(self, lanes: list[list[RowGroup]], batches: Ints) -> EventEpoch:
        rows, events = self._rows(lanes).max(axis=1), self._events(lanes).max(axis=1)
        batches = batches.copy()
        for _ in range(self.steps - int(batches.sum())):
            # The slot with the largest batches gets one more; where no batch has two rows, the first one an empty one.
            batches[int(np.argmax(np.where(batches < rows, events / np.maximum(batches, 1), 0)))] += 1
        number, slot = in_turn(batches)
        return EventEpoch(lanes, slot, number, batches)

    def _events(self, lanes: list[list[RowGroup]]) -> Ints:
        """(slots, ranks)"""
        return self._table([sum(map(self.size, groups)) for groups in lanes])


def in_turn(batches: Ints) -> tuple[Ints, Ints]:
    """Number within its slot and slot of every step, both (S,): one batch of every slot, as long as it has any."""
    number, slot = np.nonzero(np.arange(batches.max())[:, None] < batches)
    return number, slot


def generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**63, *place])
