"""Where raw ids live in a table: open addressing in buckets, on the device of the table, without a loop over ids.

An id belongs to one bucket and has its place among `PROBES` neighbouring slots of it, from a start of its own on, round
the end of the bucket. Both follow from the id alone, so an id has the same place on any number of ranks, and ranks hold
whole buckets. Every lookup reads the whole window: an id that leaves its slot breaks no chain.

Legend: n ids, P slots of a window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.common.open_ids import EXTRA_ROWS, HIDDEN_ID, PROBES, buckets_of, dynamic_rows
from dist_rec.common.strict import ConfigError
from dist_rec.embedding.rows import mixed_seed

SLOT_BYTES = 20  # of a `SlotMap`
NEVER = -1  # `seen` of a free slot
BLOCKED = 2**62  # priority of a slot that may not be taken
_NOBODY = 2**31 - 1
_LOW = 2**32 - 1


@dataclass(frozen=True)
class Place:
    """The slots of rank `rank` of `ranks`, of a table that holds `held` ids. Slot s is row `first + s` of the table."""

    held: int
    rank: int = 0
    ranks: int = 1

    def check(self, table: str) -> None:
        """Raises ConfigError if the ranks cannot hold whole buckets."""
        if self.buckets % self.ranks:
            raise ConfigError(
                f"table {table}: {self.held} dynamic ids are in {self.buckets} buckets, which {self.ranks} ranks "
                "cannot hold equally many of; expected a number of ranks that divides them, or more rows"
            )

    @property
    def buckets(self) -> int:
        return buckets_of(self.held)

    @property
    def bucket_rows(self) -> int:
        return dynamic_rows(self.held) // self.buckets

    @property
    def slots(self) -> int:
        return dynamic_rows(self.held) // self.ranks

    @property
    def first(self) -> int:
        return self.rank * self.slots

    @property
    def fallback(self) -> int:
        """The row of ids that have none of their own."""
        return dynamic_rows(self.held) - EXTRA_ROWS

    @property
    def hidden(self) -> int:
        return dynamic_rows(self.held) - 1

    @property
    def window(self) -> int:
        """P."""
        return min(PROBES, self.bucket_rows - EXTRA_ROWS)

    def owners(self, ids: Tensor) -> Tensor:
        """(n,) the rank of each id."""
        return self._bucket(mixed_seed(ids)) // (self.buckets // self.ranks)

    def windows(self, ids: Tensor) -> Tensor:
        """(n, P) slots of this rank's ids."""
        hashed = mixed_seed(ids)
        bucket = self._bucket(hashed)
        # The extra rows are at the end of the last bucket.
        size = torch.where(bucket == self.buckets - 1, self.bucket_rows - EXTRA_ROWS, self.bucket_rows)
        start = ((hashed & _LOW) * size) >> 32
        steps = torch.arange(self.window, device=ids.device)
        first = bucket * self.bucket_rows - self.first
        return first[:, None] + (start[:, None] + steps) % size[:, None]

    def _bucket(self, hashed: Tensor) -> Tensor:
        return (((hashed >> 32) & _LOW) * self.buckets) >> 32


class SlotMap:
    """The ids of this rank's slots: `ids` (slots,) int64, `HIDDEN_ID` in a free one; `seen` (slots,) int32, the last
    step that met the id; `count` (slots,) int32, the steps that did."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self.place = place
        self.ids = torch.full((place.slots,), HIDDEN_ID, device=device)
        self.seen = torch.full((place.slots,), NEVER, dtype=torch.int32, device=device)
        self.count = torch.zeros(place.slots, dtype=torch.int32, device=device)
        self._holder = torch.full_like(self.seen, _NOBODY)  # of `claim`, between two calls as it is here

    def find(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Windows (n, P) of ids (n,), and the slot (n,) of each; -1 of an id that has none."""
        windows = self.place.windows(ids)
        here = self.ids[windows] == ids[:, None]
        # An id is in one slot at most, so the sum picks it.
        return windows, torch.where(here, windows + 1, 0).sum(1) - 1

    def touch(self, slots: Tensor, step: int) -> None:
        """Notes that a step met the ids of these distinct slots."""
        self.seen[slots] = step
        self.count[slots] += 1

    def put(self, slots: Tensor, ids: Tensor, step: int, count: Tensor | int) -> None:
        self.ids[slots], self.seen[slots] = ids, step
        self.count[slots] = count if isinstance(count, Tensor) else torch.full_like(slots, count, dtype=torch.int32)

    def free(self, slots: Tensor) -> None:
        self.ids[slots], self.seen[slots], self.count[slots] = HIDDEN_ID, NEVER, 0

    def claim(self, windows: Tensor, priority: Tensor) -> Tensor:
        """(n,) slot for each of n new ids, one after the other: of its window the one with the smallest priority that
        none before it has, the first one of equals; -1 where all are taken or `BLOCKED`.

        `windows` (n, P) and `priority` (n, P) int64. Ids propose all at once, and a slot keeps the first of those that
        want it (Gale and Shapley): that ends in what one after the other would. The host waits for each round, of which
        there are few.
        """
        chosen = torch.full_like(windows[:, 0], -1)
        holder = self._holder
        number = torch.arange(len(windows), dtype=torch.int32, device=windows.device)
        open_ = number
        while len(open_):
            taken = holder[windows[open_]] < open_[:, None]
            best, at = torch.where(taken, BLOCKED, priority[open_]).min(1)
            wanted = windows[open_, at]
            chosen[open_] = torch.where(best < BLOCKED, wanted, -1)
            asking = best < BLOCKED
            holder.scatter_reduce_(0, wanted[asking], open_[asking], "amin")
            open_ = number[(chosen >= 0) & (holder[chosen.clamp(min=0)] != number)]
        holder[chosen[chosen >= 0]] = _NOBODY
        return chosen
