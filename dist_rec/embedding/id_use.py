"""What happens to the ids of dynamic tables, and the memory of their maps, for the log of a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from dist_rec.embedding.dynamic_tables import dynamic_tables


@dataclass(frozen=True)
class IdUse:
    """Distinct ids that steps have `met`, over all ranks: those that had a row (`hits`), that were given one
    (`inserted`, of which `evicted` took another id's), that are not admitted yet (`waiting`), and that found none
    (`no_slot`)."""

    met: float
    hits: float
    inserted: float
    evicted: float
    waiting: float
    no_slot: float

    def shares(self) -> dict[str, float]:
        """Of the ids that were met; those of `evicted` are among the inserted ones, the others add up to 1."""
        counts = {"hit": self.hits, "inserted": self.inserted, "waiting": self.waiting, "no_slot": self.no_slot}
        return {name: count / max(self.met, 1.0) for name, count in (counts | {"evicted": self.evicted}).items()}


class IdMeter:
    """Reads the counters of all dynamic tables inside a model; each reading waits for the device.

    `total`: numbers of this rank -> their sums over all ranks, in the same order. Comm: what `total` does, once per
    reading, if there are dynamic tables."""

    def __init__(self, model: nn.Module, total: Callable[..., Sequence[float]]) -> None:
        tables = dynamic_tables(model.modules())
        self._ids, self._total = {} if tables is None else tables.ids, total
        self._before = self._counts()

    def since_last(self) -> dict[str, IdUse]:
        """By table, since the last reading; empty without dynamic tables. Every rank calls it."""
        if not self._ids:
            return {}
        now, before = self._counts(), self._before
        self._before = now
        sums = iter(self._total(*(new - old for new, old in zip(now, before, strict=True))))
        return {name: IdUse(*(next(sums) for _ in range(len(IdUse.__dataclass_fields__)))) for name in self._ids}

    def _counts(self) -> list[int]:
        return [count for of in self._ids.values() for count in of.uses.tolist()]


def maps_told(model: nn.Module) -> list[str]:
    """A line for every dynamic table of a model whose maps are there: the ids that it holds, how they are kept, and the
    memory of its maps on this rank."""
    tables = dynamic_tables(model.modules())
    lines = []
    for name, of in ({} if tables is None else tables.ids).items():
        place = of.table.place
        kept = of.eviction.policy if of.eviction.ttl is None else f"ttl of {of.eviction.ttl} steps"
        admitted = f", admitted after {of.admission.count} steps" if of.admission.count > 1 else ""
        lines.append(
            f"table {name}: {place.held:,} dynamic ids in {place.buckets:,} buckets, {kept}{admitted}; "
            f"{of.nbytes / 2**20:,.1f} MiB of maps per rank"
        )
    return lines
