"""What one of W ranks reads of lanes that were planned for R ranks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import Ints


@dataclass(frozen=True)
class Share:
    """Of a planned rank's rows of any batch, the part from `low` / `parts` to `high` / `parts`."""

    rank: int
    low: int
    high: int
    parts: int

    def of(self, rows: Ints) -> Ints:
        """(n,) of (N,) rows. The parts of all ranks that share them are all of them, each once."""
        return rows[len(rows) * self.low // self.parts : len(rows) * self.high // self.parts]


def shares(planned: int, ranks: int, rank: int) -> Iterator[Share]:
    """What `rank` of `ranks` reads, in the order of the planned ranks: the stretch from `rank * planned / ranks` to
    `(rank + 1) * planned / ranks` of them."""
    first, end = rank * planned, (rank + 1) * planned  # in parts of 1 / ranks of a planned rank
    for lane in range(first // ranks, -(-end // ranks)):
        yield Share(lane, max(first - lane * ranks, 0), min(end - lane * ranks, ranks), ranks)


def joined(found: Sequence[tuple[pa.Table, Ints]]) -> tuple[pa.Table, Ints] | None:
    """Rows of several tables as rows of one; None of none."""
    if len(found) < 2:
        return found[0] if found else None
    table = pa.concat_tables([table.take(pa.array(rows)) for table, rows in found]).combine_chunks()
    return table, np.arange(table.num_rows)
