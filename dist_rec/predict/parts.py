"""The requests of a prediction in parts of whole batches, and who computes which.

What a part and a batch hold follows from the requests alone, so any number of ranks writes the same files."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from dist_rec.data.plan import Rows

MOST = 65_536  # requests of a part, if nothing is said
FEWEST_PARTS = 32  # so that as many ranks share a small prediction, too


@dataclass(frozen=True)
class Parts:
    """- `requests` in all, `batch` of them in a batch, `per_part` in a part: a multiple of `batch`
    - the last batch and the last part may hold fewer
    """

    requests: int
    batch: int
    per_part: int

    @classmethod
    def of(cls, requests: int, batch: int, wanted: int | None) -> "Parts":
        """With about `wanted` requests in a part, rounded up to whole batches."""
        about = min(MOST, -(-requests // FEWEST_PARTS)) if wanted is None else wanted
        return cls(requests, batch, -(-about // batch) * batch)

    def __len__(self) -> int:
        return -(-self.requests // self.per_part)

    def rows(self, part: int) -> Rows:
        """The requests of a part."""
        first = part * self.per_part
        return Rows(first, min(self.per_part, self.requests - first))

    def batches(self, part: int) -> Iterator[Rows]:
        """The requests of each of its batches."""
        whole = self.rows(part)
        for first in range(whole.first, whole.first + whole.count, self.batch):
            yield Rows(first, min(self.batch, whole.first + whole.count - first))

    def batches_of_all(self) -> Iterator[Rows]:
        return (rows for part in range(len(self)) for rows in self.batches(part))


@dataclass(frozen=True)
class Turn:
    """What one rank does in one step: some requests of a part, or nothing while others still have some."""

    part: int
    rows: Rows
    is_last: bool  # of its part


@dataclass(frozen=True)
class Schedule:
    """The steps of all ranks: lookups are shared, so every rank takes part in each. A rank has parts that follow each
    other, so that it decodes few row groups that others decode, too."""

    turns: Sequence[Sequence[Turn]]  # of each rank

    @classmethod
    def of(cls, parts: Parts, missing: Sequence[int], ranks: int) -> "Schedule":
        ends = [len(missing) * rank // ranks for rank in range(ranks + 1)]
        return cls(
            [
                [
                    Turn(part, rows, rows.first + rows.count == parts.rows(part).first + parts.rows(part).count)
                    for part in missing[start:end]
                    for rows in parts.batches(part)
                ]
                for start, end in pairwise(ends)
            ]
        )

    @property
    def steps(self) -> int:
        return max(map(len, self.turns), default=0)

    def of_rank(self, rank: int) -> list[Turn | None]:
        """A turn for every step."""
        own = list[Turn | None](self.turns[rank])
        return own + [None] * (self.steps - len(own))

    def done(self) -> Iterator[int]:
        """Requests of all ranks that are done after each step."""
        return accumulate(
            sum(own[step].rows.count for own in self.turns if step < len(own)) for step in range(self.steps)
        )
