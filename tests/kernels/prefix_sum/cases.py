"""Random jagged sequences with prefixes, and the truth about them."""

import itertools
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate

import torch
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.prefix_sum import Backend, prefix_sum
from tests.helpers.closeness import assert_close_to_truth, farthest

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Case:
    """float64 `rows`; `prefixes` are `prefix_offsets` and `prefix_len`, or nothing for whole sequences."""

    rows: Tensor
    offsets: Tensor
    prefixes: tuple[Tensor, ...]

    def to(self, dtype: torch.dtype) -> "Case":
        return replace(self, rows=self.rows.to(dtype))

    def run(self, backend: Backend) -> tuple[Tensor, Tensor]:
        """Sums, and the gradient of a random weighting of them for the rows."""
        device = DEVICE if backend == "triton" else torch.device("cpu")
        rows = self.rows.to(device).requires_grad_()
        out = prefix_sum(rows, *(x.to(device) for x in (self.offsets, *self.prefixes)), backend=backend)
        (grad,) = torch.autograd.grad((out * output_weights(out.shape).to(out)).sum(), rows)
        return out.detach().cpu(), grad.cpu()


def make_case(lengths: list[int], prefixes: list[list[int]] | None, width: int, seed: int = 0) -> Case:
    """`prefixes`: of each sequence the lengths of its prefixes, or None for whole sequences."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(lengths), width, generator=generator, dtype=torch.float64)
    given: tuple[Tensor, ...] = ()
    if prefixes is not None:
        given = (_ints([0, *accumulate(len(own) for own in prefixes)]), _ints([n for own in prefixes for n in own]))
    return Case(rows, _ints([0, *accumulate(lengths)]), given)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Empty, short and long sequences; none to four prefixes of each, some of nothing, some beyond the end."""
    lengths = draw(st.lists(st.sampled_from((0, 1, 2, 7, 31, 32, 33, 64, 70)), max_size=5))
    prefixes = [draw(st.lists(st.integers(0, n + 1), max_size=4)) for n in lengths]
    return make_case(
        lengths,
        prefixes if draw(st.booleans()) else None,
        draw(st.sampled_from((1, 5, 16, 70))),
        draw(st.integers(0, 99)),
    )


def assert_true(case: Case, backend: Backend) -> None:
    """As close to the truth as rows added one after the other, in some order: of few additions one order is exact by
    luck."""
    shuffle = torch.Generator().manual_seed(2)
    orders = [_one_after_the_other(case, shuffle) for _ in range(6)]
    truth = case.to(torch.float64).run("reference")
    for got, exact, *plain in zip(case.run(backend), truth, *orders, strict=True):
        assert_close_to_truth(got, exact, farthest(plain, exact))


def _one_after_the_other(case: Case, shuffle: torch.Generator) -> tuple[Tensor, Tensor]:
    """Sums and gradient, each added up in fp32 in an order of its own."""
    rows, places = case.rows.float(), case.offsets.tolist()
    prefixes = [[end - begin] for begin, end in itertools.pairwise(places)]
    if case.prefixes:
        firsts, lengths = (x.tolist() for x in case.prefixes)
        prefixes = [lengths[begin:end] for begin, end in itertools.pairwise(firsts)]
    ends = zip(itertools.pairwise(places), prefixes, strict=True)
    held = [range(begin, min(begin + n, end)) for (begin, end), own in ends for n in own]
    weights = output_weights((len(held), rows.shape[1])).float()

    def add(terms: Tensor) -> Tensor:
        order = torch.randperm(len(terms), generator=shuffle)
        return reduce(torch.add, terms[order].unbind(), torch.zeros(rows.shape[1]))

    sums = [add(rows[list(places)]) for places in held]
    grads = [add(weights[[i for i, places in enumerate(held) if row in places]]) for row in range(len(rows))]
    out, grad = (torch.stack(x) if x else rows[:0] for x in (sums, grads))
    return out, grad.to(case.rows.dtype)


def output_weights(shape: tuple[int, ...]) -> Tensor:
    """The gradient that is sent in: the same numbers in every dtype."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).double()


def _ints(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)
