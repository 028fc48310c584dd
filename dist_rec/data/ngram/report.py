"""What n-grams of a dataset would be: how often they occur again, and how many share a row.

Legend: N events, M sub-tables.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.layout import FieldNgrams
from dist_rec.data.ngram.counts import NgramUse
from dist_rec.data.ngram.host import Ints, host_ngram_ids

# Names n-grams by 60 bits: two of ten million are named alike with a probability of 1 in 20,000.
_NAME_ROWS = 2**30


@dataclass(frozen=True)
class OrderReport:
    """N-grams of one order over all splits.

    - `distinct` n-grams, of `events`; `use` within the batches
    - `rows_used` share of the rows of its sub-tables that an n-gram fell on
    - `sharing` share of the distinct n-grams that fell on a row with another one, of one head; `lost` in all heads
    """

    name: str
    events: int
    distinct: int
    use: NgramUse
    rows_used: float
    sharing: float
    lost: float


@dataclass
class NgramCounter:
    """Counts n-grams of one field over batches."""

    of: FieldNgrams
    use: dict[str, NgramUse] = field(default_factory=dict)
    events: int = 0
    _seen: dict[int, "_Distinct"] = field(default_factory=dict)  # by order

    def add(self, batch: HostBatch) -> None:
        of, spec = self.of, self.of.spec
        ids, lengths, times = _events(batch, of)
        rows = host_ngram_ids(ids, lengths, spec, hidden=of.hidden, times=times)
        self.events += len(ids)
        for name, use in batch.ngram_use.items():
            if name.startswith(f"{of.sequence}.{of.field}."):
                self.use[name] = self.use.get(name, NgramUse(0, 0, 0)) + use
        for place, order in enumerate(spec.orders):
            names = _names(ids, lengths, order, of, times)
            own = rows[:, place * spec.heads : (place + 1) * spec.heads]
            self._seen.setdefault(order, _Distinct()).add(names, own)

    def reports(self) -> list[OrderReport]:
        spec, found = self.of.spec, []
        for place, order in enumerate(spec.orders):
            name = f"{self.of.sequence}.{self.of.field}.{order}"
            rows = self._seen[order].rows() if order in self._seen else np.zeros((0, spec.heads), np.int64)
            heads = [np.unique(column, return_inverse=True, return_counts=True) for column in rows.T]
            shared = np.stack([counts[inverse.reshape(-1)] > 1 for _, inverse, counts in heads], axis=1)
            together = np.unique(rows, axis=0, return_inverse=True, return_counts=True)
            found.append(
                OrderReport(
                    name=name,
                    events=self.events,
                    distinct=len(rows),
                    use=self.use.get(name, NgramUse(0, 0, 0)),
                    rows_used=sum(len(used) for used, _, _ in heads)
                    / sum(spec.table_rows[place * spec.heads : (place + 1) * spec.heads]),
                    sharing=float(shared.mean()) if len(rows) else 0.0,
                    lost=float((together[2][together[1].reshape(-1)] > 1).mean()) if len(rows) else 0.0,
                )
            )
        return found


class _Distinct:
    """Distinct n-grams: their names, and the rows (G, heads) of each. New ones are merged when there are as many of
    them as were known, so that all merges together sort each n-gram a few times."""

    def __init__(self) -> None:
        self._parts: list[tuple[Ints, Ints]] = []
        self._known = 0

    def add(self, names: Ints, rows: Ints) -> None:
        self._parts.append((names, rows))
        if sum(len(of) for of, _ in self._parts) > 2 * self._known:
            self._merge()

    def rows(self) -> Ints:
        self._merge()
        return self._parts[0][1]

    def _merge(self) -> None:
        names, rows = (np.concatenate(parts) for parts in zip(*self._parts, strict=True))
        every, first = np.unique(names, return_index=True)
        self._parts, self._known = [(every, rows[first])], len(every)


def render(reports: list[OrderReport], batch_requests: int) -> Table:
    """One row per field and order."""
    table = Table("n-grams", title="n-grams")
    again = f"rows / event, ids / row of {batch_requests} requests"
    for header in ("events", "distinct", "events / n-gram", again, "rows used", "share a row", "in all heads"):
        table.add_column(header, justify="right")
    for of in reports:
        table.add_row(
            of.name,
            f"{of.events:,}",
            f"{of.distinct:,}",
            f"{of.events / max(of.distinct, 1):.2f}",
            f"{of.use.rows_per_event:.2f}, {of.use.dedup_factor:.2f}",
            f"{of.rows_used:.1%}",
            f"{of.sharing:.1%}",
            f"{of.lost:.1%}",
        )
    return table


def _events(batch: HostBatch, of: FieldNgrams) -> tuple[Ints, NDArray[np.int64], NDArray | None]:
    """Ids (N,) of the field, lengths (B,), and ages (N,) or None."""
    inverse = batch.inverse(of.sequence)
    ids = batch.ids_of(of.key)[inverse].numpy()  # pyright: ignore[reportArgumentType] - unpacked in host memory
    age = batch.tensors.get(f"age.{of.sequence}")
    lengths = batch.tensors[f"lengths.{of.sequence}"].numpy().astype(np.int64)
    return ids, lengths, None if age is None else age.numpy()


def _names(ids: Ints, lengths: Ints, order: int, of: FieldNgrams, times: NDArray | None) -> Ints:
    """(N,) numbers that differ where n-grams of this order do."""
    seed = (of.spec.seed + 1) % 2**62
    spec = NgramSpec(orders=[order], heads=1, rows=_NAME_ROWS, seed=seed, gap_seconds=of.spec.gap_seconds)
    halves = [
        host_ngram_ids(ids, lengths, spec.model_copy(update={"seed": spec.seed + more}), hidden=of.hidden, times=times)
        for more in (0, 1)
    ]
    return halves[0][:, 0] * _NAME_ROWS + halves[1][:, 0]
