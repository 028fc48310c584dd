"""Sequences with hidden events and pauses, and heads of every kind."""

from dataclasses import dataclass
from itertools import accumulate

import torch
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.common.ngram import NgramSpec
from dist_rec.kernels.common.backend import Backend
from dist_rec.kernels.ngram_ids import ngram_ids

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
HIDDEN = 7


@dataclass(frozen=True)
class Case:
    """Sequences of ids with their times, and what is hashed."""

    values: list[int]
    times: list[int]
    lengths: list[int]
    spec: NgramSpec
    hidden: int | None

    def ids(self, backend: Backend) -> Tensor:
        """(N, M) on the CPU."""
        device = DEVICE if backend == "triton" else torch.device("cpu")
        spec, gap = self.spec, self.spec.gap_seconds
        return ngram_ids(
            torch.tensor(self.values, dtype=torch.int64, device=device),
            torch.tensor([0, *accumulate(self.lengths)], dtype=torch.int32, device=device),
            torch.tensor(spec.head_numbers(), device=device),
            polynomial=spec.hash == "polynomial",
            hidden=self.hidden,
            times=None if gap is None else torch.tensor(self.times, dtype=torch.int64, device=device),
            gap=gap or 0,
            backend=backend,
        ).cpu()


# Primes and odd numbers up to the most rows, none near a multiple of a base.
_ROWS = st.sampled_from((29, 101, 1_000_003, 2**29 + 11))
_BASES = st.sampled_from((3, 7, 13))
_VALUES = st.one_of(st.integers(0, 9), st.integers(0, 2**63 - 2))


@st.composite
def specs(draw: st.DrawFn) -> NgramSpec:
    orders = sorted(draw(st.sets(st.integers(2, 5), min_size=1, max_size=3)))
    gap = draw(st.none() | st.integers(0, 20))
    if draw(st.booleans()):
        base = draw(_BASES)
        rows = [r for r in (29, 101, 1_000_003) if abs(r - base * round(r / base)) >= 0.05 * base and r % base]
        heads = draw(st.integers(1, len(rows)))
        return NgramSpec(
            orders=orders, heads=heads, rows=rows[:heads] * len(orders), hash="polynomial", base=base, gap_seconds=gap
        )
    heads = draw(st.integers(1, 3))
    count = heads * len(orders)
    rows = draw(st.lists(_ROWS, min_size=count, max_size=count).filter(lambda of: sum(of) < 2**31))
    return NgramSpec(orders=orders, heads=heads, rows=rows, seed=draw(st.integers(0, 2**63 - 1)), gap_seconds=gap)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    lengths: list[int] = draw(st.lists(st.sampled_from((0, 1, 2, 3, 5, 17)), max_size=6))
    count = sum(lengths)
    values = draw(st.lists(_VALUES, min_size=count, max_size=count))
    times = draw(st.lists(st.integers(0, 60), min_size=count, max_size=count))
    return Case(values, times, lengths, draw(specs()), draw(st.sampled_from((None, HIDDEN))))
