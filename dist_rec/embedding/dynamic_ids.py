"""Ids that get a row when they are met and lose it when others need it: one rank's part of one table.

TorchRec's managed collisions (MPZCH) do this on a GPU. FBGEMM's kernel for them only reads on a CPU
(`zero_collision_hash`: "Expected readonly to be true"), knows neither a count of steps nor admission by it, and shards
a collection of its own; hence this one, in plain torch.

Legend: n distinct ids.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.common.open_ids import AdmissionConfig, EvictionConfig, Policy
from dist_rec.embedding.slot_map import BLOCKED, SLOT_BYTES, Place, SlotMap

USES = ("met", "hits", "inserted", "evicted", "waiting", "no_slot")


@dataclass(frozen=True)
class Learned:
    """`slots` (n,) of the ids, -1 without one; `fresh` (f,) those of them that got another id, and their `ids` (f,)."""

    slots: Tensor
    fresh: Tensor
    ids: Tensor


class DynamicIds:
    """Slots of the ids that this rank owns.

    A step first looks its ids up. Those that have no slot count as met, and with an admission wait until `count` steps
    have met them; a map as large as the table remembers the latest of them. Then, in ascending order, each takes a
    free slot of its window, or the slot of an id that was not met in this step, by the policy. The result depends on
    the ids of each step alone, not on their order or the number of ranks.

    `uses` (6,) int64: what happened so far to distinct ids in training, in the order of USES.
    """

    def __init__(
        self, place: Place, eviction: EvictionConfig, admission: AdmissionConfig, device: torch.device
    ) -> None:
        self.eviction, self.admission = eviction, admission
        self.table = SlotMap(place, device)
        self.waiting = SlotMap(place, device) if admission.count > 1 else None
        self.uses = torch.zeros(len(USES), dtype=torch.int64, device=device)

    @property
    def nbytes(self) -> int:
        """Of the maps."""
        return map_bytes(self.table.place.slots, self.admission)

    def known(self, ids: Tensor) -> Tensor:
        """(n,) slots of ids (n,) int64, -1 of an unknown one. Changes nothing."""
        return self.table.find(ids)[1]

    def learn(self, ids: Tensor, step: int) -> Learned:
        """Slots of ids (n,) int64, distinct and ascending, that training meets in a step; steps count up from 0."""
        windows, slots = self.table.find(ids)
        met = slots >= 0
        self.table.touch(slots[met], step)
        new = (~met).nonzero()[:, 0]
        admitted, waiting_slots, counts = self._admitted(ids[new], step)
        asking = new[admitted]
        windows = windows[asking]
        seen, count = self.table.seen[windows], self.table.count[windows]
        chosen = self.table.claim(windows, _priority(self.eviction, seen, count, step))
        placed = chosen >= 0
        fresh, fresh_ids = chosen[placed], ids[asking[placed]]
        evicted = (self.table.seen[fresh] >= 0).sum()
        self.table.put(fresh, fresh_ids, step, counts[admitted][placed])
        if self.waiting is not None:
            self.waiting.free(waiting_slots[admitted][placed])
        slots[asking] = chosen
        sizes = torch.tensor([len(ids), len(ids) - len(new), len(fresh), 0, len(new) - len(asking), 0])
        self.uses += sizes.to(self.uses.device)
        self.uses[USES.index("evicted")] += evicted
        self.uses[USES.index("no_slot")] += len(asking) - len(fresh)
        return Learned(slots, fresh, fresh_ids)

    def _admitted(self, ids: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of new ids (n,): whether each gets a row, its slot among those that wait, and the steps that met it."""
        waiting = self.waiting
        if waiting is None:
            ones = torch.ones_like(ids, dtype=torch.int32)
            return ones.bool(), ids, ones
        windows, slots = waiting.find(ids)
        waiting.touch(slots[slots >= 0], step)
        new = (slots < 0).nonzero()[:, 0]
        seen, count = waiting.seen[windows[new]], waiting.count[windows[new]]
        chosen = waiting.claim(windows[new], _priority(EvictionConfig(), seen, count, step))
        placed = chosen >= 0
        waiting.put(chosen[placed], ids[new[placed]], step, 1)
        slots[new] = chosen
        counts = torch.where(slots >= 0, waiting.count[slots.clamp(min=0)], 0)
        return counts >= self.admission.count, slots, counts


def map_bytes(slots: int, admission: AdmissionConfig) -> int:
    """Memory of the maps of so many slots."""
    return slots * SLOT_BYTES * (2 if admission.count > 1 else 1)


def _priority(eviction: EvictionConfig, seen: Tensor, count: Tensor, step: int) -> Tensor:
    """int64: slots that are taken sooner have a smaller one; free ones -1, and those that stay BLOCKED."""
    seen = seen.long()
    kept: Policy = eviction.policy
    age = step - seen
    stays = age <= eviction.ttl if kept == "ttl" and eviction.ttl is not None else age == 0
    priority = (count.long() << 32) + seen if kept == "lfu" else seen
    return torch.where(seen < 0, -1, torch.where(stays, BLOCKED, priority))
