"""The rows of every rank and reader worker, for every step of every epoch.

A **lane** is one (rank, slot); a rank with W workers has W slots. Every epoch, row groups in seeded order are assigned
one by one to the lane with the fewest rows. A slot has as many batches as the longest of its lanes on any rank. Steps
take one batch of every slot in turn, as long as the slot has any, so that some rank has rows. All ranks compute this
from the Parquet footers alone, so they agree without communication.

A DataLoader takes batches from its workers in turn, so worker t mod W makes step t of the run, whatever its slot. While
all slots have batches, a worker stays with one slot. Later, or with fewer row groups than lanes, the workers read the
same row groups and take turns with their batches. All epochs have equally many steps: an epoch that needs fewer cuts
some of its batches in two. A step has no rows on any rank only if no batch has two rows to cut, as with a batch size
of 1.

The order of the row groups repeats after `ORDERS` epochs (the order of the rows does not), which bounds the time of a
start."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dist_rec.data.columns import Ints
from dist_rec.data.files import RowGroup

ORDERS = 1000  # epochs until the row groups come in the same order again


@dataclass(frozen=True)
class Epoch:
    """Lanes of one epoch, and per step (S,) its slot and the rows of the slot's lanes: `count` from `first` on."""

    lanes: list[list[RowGroup]]  # of (slot 0, rank 0), (slot 0, rank 1), ...
    slot: Ints
    first: Ints
    count: Ints


class Plan:
    """The steps of a run. With `seed` None, row groups keep their order and all epochs are alike."""

    def __init__(
        self,
        groups: Sequence[RowGroup],
        *,
        world_size: int,
        workers: int,
        batch_size: int,
        epochs: int,
        seed: int | None,
    ) -> None:
        self.groups, self.world_size, self.workers = groups, world_size, workers
        self.batch_size, self.epochs, self.seed = batch_size, epochs, seed
        self._latest: tuple[int, Epoch] | None = None

    def assign(self, epoch: int) -> list[list[RowGroup]]:
        """Row groups of every lane in reading order. Lanes of slot 0 come first: they get rows first."""
        order = range(len(self.groups))
        if self.seed is not None:
            order = generator(self.seed, epoch % ORDERS).permutation(len(self.groups)).tolist()
        lanes: list[list[RowGroup]] = [[] for _ in range(self.world_size * self.workers)]
        heap = [(0, lane) for lane in range(len(lanes))]
        for index in order:
            rows, lane = heap[0]
            heapq.heapreplace(heap, (rows + self.groups[index].rows, lane))
            lanes[lane].append(self.groups[index])
        return lanes

    @cached_property
    def steps(self) -> int:
        """Steps of every epoch: the most that any epoch needs."""
        alike = self.seed is None or len({group.rows for group in self.groups}) == 1
        epochs = 1 if alike else min(self.epochs, ORDERS)
        return max(int(self._batches(self.assign(epoch)).max(axis=1).sum()) for epoch in range(epochs))

    @property
    def empty_share(self) -> float:
        """Share of the ranks' batches in the first epoch that have no rows."""
        batches = self._batches(self.assign(0))
        return 1 - float(batches.sum() / (self.world_size * batches.max(axis=1).sum()))

    def epoch(self, epoch: int) -> Epoch:
        """The rows of an epoch's steps; the latest epoch is cached."""
        if self._latest is None or self._latest[0] != epoch:
            self._latest = (epoch, self._epoch(epoch))
        return self._latest[1]

    def _epoch(self, epoch: int) -> Epoch:
        lanes = self.assign(epoch)
        batches = self._batches(lanes).max(axis=1)
        turn, slot = np.nonzero(np.arange(batches.max())[:, None] < batches)
        first, count = turn * self.batch_size, np.full(len(slot), self.batch_size)
        longest = self._rows(lanes).max(axis=1)
        for _ in range(self.steps - len(slot)):
            rows = np.minimum(count, longest[slot] - first)
            largest = len(rows) - 1 - int(np.argmax(rows[::-1]))  # the last one: after it, workers change places
            half = int(rows[largest]) // 2  # 0 only if no batch has two rows; that step then stays empty
            slot = np.insert(slot, largest, slot[largest])
            first = np.insert(first, largest, first[largest])
            count = np.insert(count, largest, half)
            first[largest + 1] += half
            count[largest + 1] -= half
        return Epoch(lanes, slot, first, count)

    def _rows(self, lanes: list[list[RowGroup]]) -> Ints:
        """(slots, ranks)"""
        rows = [sum(group.rows for group in groups) for groups in lanes]
        return np.array(rows, dtype=np.int64).reshape(self.workers, self.world_size)

    def _batches(self, lanes: list[list[RowGroup]]) -> Ints:
        """(slots, ranks)"""
        return -(-self._rows(lanes) // self.batch_size)


def generator(seed: int, *place: int) -> np.random.Generator:
    return np.random.default_rng([seed % 2**63, *place])
