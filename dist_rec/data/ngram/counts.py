"""What the n-grams of a batch need, by order: ids that are looked up, and the distinct rows among them.

Legend: U distinct rows, M sub-tables.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.data.layout import FieldNgrams


@dataclass(frozen=True)
class NgramUse:
    """Of one order of one field: its `events`, their `ids`, and the distinct `rows` that these are."""

    events: int
    ids: int
    rows: int

    def __add__(self, other: "NgramUse") -> "NgramUse":
        return NgramUse(self.events + other.events, self.ids + other.ids, self.rows + other.rows)

    @property
    def rows_per_event(self) -> float:
        return self.rows / max(self.events, 1)

    @property
    def dedup_factor(self) -> float:
        """Ids over distinct rows."""
        return self.ids / max(self.rows, 1)


def use_by_order(rows: Tensor, events: int, of: FieldNgrams) -> dict[str, NgramUse]:
    """ "<sequence>.<field>.<order>" -> its use, of distinct `rows` (U,) of the fused table. The host waits for their
    device."""
    first = torch.tensor(of.spec.first_rows, device=rows.device)
    table = torch.searchsorted(first, rows, right=True) - 1
    by_table = torch.bincount(table, minlength=of.spec.tables).view(len(of.spec.orders), of.spec.heads)
    ids = events * of.spec.heads
    return {
        f"{of.sequence}.{of.field}.{order}": NgramUse(events, ids, count)
        for order, count in zip(of.spec.orders, by_table.sum(1).tolist(), strict=True)
    }
