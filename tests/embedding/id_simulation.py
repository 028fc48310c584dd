"""Dynamic ids in plain Python, one id after the other: what the tensors must do."""

from dataclasses import dataclass, field

import numpy as np

from dist_rec.common.id_hash import mixed
from dist_rec.common.open_ids import AdmissionConfig, EvictionConfig, buckets_of, dynamic_rows


@dataclass
class Slot:
    id: int
    seen: int
    count: int


def window(id_: int, held: int) -> list[int]:
    """The slots of the whole table where an id may be."""
    buckets = buckets_of(held)
    rows = dynamic_rows(held) // buckets
    hashed = int(mixed(np.array([id_], np.int64))[0])
    bucket = ((hashed >> 32) * buckets) >> 32
    size = rows - 2 if bucket == buckets - 1 else rows
    start = ((hashed & (2**32 - 1)) * size) >> 32
    return [bucket * rows + (start + step) % size for step in range(min(32, rows - 2))]


@dataclass
class Simulation:
    """All slots of a table, whatever rank has them; `uses` as in `DynamicIds`."""

    held: int
    eviction: EvictionConfig
    admission: AdmissionConfig
    slots: dict[int, Slot] = field(default_factory=dict)
    waiting: dict[int, Slot] = field(default_factory=dict)
    uses: list[int] = field(default_factory=lambda: [0] * 6)
    fresh: dict[int, int] = field(default_factory=dict)  # of the last step: slot -> id

    def learn(self, ids: set[int], step: int) -> dict[int, int]:
        """id -> slot, -1 without one."""
        found = {of.id: slot for slot, of in self.slots.items() if of.id in ids}
        for slot in found.values():
            self._touch(self.slots[slot], step)
        self.uses[0] += len(ids)
        self.uses[1] += len(found)
        self.fresh = {}
        asking = self._asking(sorted(ids - found.keys()), step)
        for id_, count in asking.items():
            slot = self._take(self.slots, self.eviction, id_, step)
            found[id_] = slot
            if slot < 0:
                self.uses[5] += 1
                continue
            self.uses[3] += slot in self.slots
            self.uses[2] += 1
            self.slots[slot] = Slot(id_, step, count)
            self.fresh[slot] = id_
            self.waiting = {place: of for place, of in self.waiting.items() if of.id != id_}
        return {id_: found.get(id_, -1) for id_ in ids}

    def _asking(self, new: list[int], step: int) -> dict[int, int]:
        """Admitted ids, and how many steps have met them."""
        if self.admission.count == 1:
            return dict.fromkeys(new, 1)
        waits = {of.id: of for of in self.waiting.values()}
        for id_ in new:
            if id_ in waits:
                self._touch(waits[id_], step)
        for id_ in new:
            if id_ not in waits and (place := self._take(self.waiting, EvictionConfig(), id_, step)) >= 0:
                self.waiting[place] = Slot(id_, step, 1)
        counts = {of.id: of.count for of in self.waiting.values()}
        asking = {id_: counts[id_] for id_ in new if counts.get(id_, 0) >= self.admission.count}
        self.uses[4] += len(new) - len(asking)
        return asking

    def _take(self, slots: dict[int, Slot], eviction: EvictionConfig, id_: int, step: int) -> int:
        best, chosen = None, -1
        for place in window(id_, self.held):
            of = slots.get(place)
            if of is None:
                rank = (-1, -1)
            elif of.seen == step or (eviction.ttl is not None and step - of.seen <= eviction.ttl):
                continue
            else:
                rank = (of.count if eviction.policy == "lfu" else 0, of.seen)
            if best is None or rank < best:
                best, chosen = rank, place
        return chosen

    @staticmethod
    def _touch(of: Slot, step: int) -> None:
        of.seen, of.count = step, of.count + 1
