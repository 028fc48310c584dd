"""What the n-grams of a batch need, by order: ids that are looked up, and the distinct rows among them.

Legend: M sub-tables.
"""

from collections.abc import Sequence
from dataclasses import dataclass

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


def use_by_order(rows: Sequence[int], events: int, of: FieldNgrams) -> dict[str, NgramUse]:
    """ "<sequence>.<field>.<order>" -> its use, from the distinct rows in each of the M sub-tables."""
    heads = of.spec.heads
    return {
        f"{of.sequence}.{of.field}.{order}": NgramUse(
            events, events * heads, sum(rows[place * heads : (place + 1) * heads])
        )
        for place, order in enumerate(of.spec.orders)
    }
