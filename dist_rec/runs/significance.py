"""Whether two groups of runs differ by more than their seeds do: an exact permutation test of the means.

If the setting changes nothing, any of the runs could have been in either group. p is the share of all ways to deal the
values into two groups of these sizes that differ at least as much as they do (Fisher 1935; two-sided)."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

LEVEL = 0.05  # a test that cannot get below says nothing
MOST_DEALS = 200_000  # two groups of ten; above, as many are drawn
DRAWN_AT_ONCE = 10_000


@dataclass(frozen=True)
class Spread:
    """Of the seeds of a group; `deviation` is that of a sample, None of one value."""

    mean: float
    deviation: float | None
    seeds: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        return cls(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Compared:
    """- `difference` of the means, second less first
    - `p` by the test, `least_p` the smallest that so many values can have
    - `exact`: every deal was counted, otherwise some were drawn
    """

    first: Spread
    second: Spread
    difference: float
    p: float
    least_p: float
    exact: bool

    @property
    def can_tell(self) -> bool:
        return self.least_p < LEVEL

    def told(self) -> str:
        """The difference and what it is worth, in words."""
        seeds = f"{self.first.seeds} and {self.second.seeds} seeds"
        if not self.can_tell:
            return (
                f"{self.difference:+.4f}; too few seeds to tell: with {seeds} no difference has a p below "
                f"{self.least_p:.2f}; expected at least {fewest_of_each()} of each"
            )
        how = "exact permutation test" if self.exact else f"permutation test, {MOST_DEALS:,} drawn"
        verdict = "more than seeds explain" if self.p < LEVEL else "no more than seeds explain"
        return f"{self.difference:+.4f}, p = {self.p:.2g} ({how} of {seeds}): {verdict}"


def compare(first: Sequence[float], second: Sequence[float]) -> Compared:
    """At least one value each."""
    values, size = np.array([*first, *second]), len(first)
    deals = math.comb(len(values), size)
    exact = deals <= MOST_DEALS
    extreme = _count_all(values, size) if exact else _count_drawn(values, size)
    return Compared(
        first=Spread.of(first),
        second=Spread.of(second),
        difference=statistics.fmean(second) - statistics.fmean(first),
        p=extreme / deals if exact else (extreme + 1) / (MOST_DEALS + 1),
        least_p=least_p(size, len(second)) if exact else 1 / (MOST_DEALS + 1),
        exact=exact,
    )


def least_p(first: int, second: int) -> float:
    """Of groups of equal size the mirror image of the most extreme deal is as extreme."""
    return min((2 if first == second else 1) / math.comb(first + second, first), 1.0)


def fewest_of_each() -> int:
    """Seeds of two equal groups with which a difference can be told."""
    return next(count for count in range(1, 100) if least_p(count, count) < LEVEL)


def _count_all(values: np.ndarray, size: int) -> int:
    deals = np.array(list(combinations(range(len(values)), size)))
    return _extreme(values, size, values[deals].sum(axis=1))


def _count_drawn(values: np.ndarray, size: int) -> int:
    rng, found = np.random.default_rng(0), 0
    for _ in range(MOST_DEALS // DRAWN_AT_ONCE):
        dealt = rng.permuted(np.broadcast_to(values, (DRAWN_AT_ONCE, len(values))), axis=1)
        found += _extreme(values, size, dealt[:, :size].sum(axis=1))
    return found


def _extreme(values: np.ndarray, size: int, sums: np.ndarray) -> int:
    """How many deals, by the sums of their first groups, differ at least as much as the values do. Sums in another
    order differ by rounding."""
    total, others = values.sum(), len(values) - size
    differences = np.abs((total - sums) / others - sums / size)
    seen = abs(values[size:].mean() - values[:size].mean())
    return int((differences >= seen - 1e-12 * max(np.abs(values).max(), 1e-300)).sum())
