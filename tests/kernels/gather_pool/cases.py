"""Inputs, truths and comparisons shared by the tests of the operators on unique rows."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args
from unittest import mock

import torch
from torch import Tensor

from dist_rec.kernels.gather_pool import Backend, Mode, expand, expand_add, pool
from dist_rec.kernels.unique_ids import Segments, pack_index, segments_of
from tests.helpers.closeness import assert_close_to_truth

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
MODES: tuple[Mode, ...] = get_args(Mode)
ADDING = ("expand_add", "expand_add_gelu")
OPERATIONS = ("expand", *ADDING, *MODES)


@dataclass(frozen=True)
class Case:
    """`tables` and `indices` are the terms of `expand_add`, `offsets` the bags of `pool`."""

    rows: Tensor
    inverse: Any  # an index in any form
    offsets: Tensor
    tables: tuple[Tensor, ...]
    indices: tuple[Tensor, ...]
    segments: Segments | None = None

    def to(self, where: torch.dtype | str | torch.device) -> "Case":
        """Floats in another dtype, or everything on another device."""
        if isinstance(where, torch.dtype):
            return replace(self, rows=self.rows.to(where), tables=tuple(x.to(where) for x in self.tables))
        segments = self.segments and Segments(self.segments.order.to(where), self.segments.offsets.to(where))
        rows, inverse, offsets = (x.to(where) for x in (self.rows, self.inverse, self.offsets))
        tables, indices = (tuple(x.to(where) for x in xs) for xs in (self.tables, self.indices))
        return Case(rows, inverse, offsets, tables, indices, segments)

    def run(self, operation: str, backend: Backend) -> Tensor:
        if operation == "expand":
            return expand(self.rows, self.inverse, segments=self.segments, backend=backend)
        if operation in ADDING:
            terms, gelu = tuple(zip(self.tables, self.indices)), operation == "expand_add_gelu"
            return expand_add(self.rows, self.inverse, terms, gelu=gelu, segments=self.segments, backend=backend)
        mode: Mode = operation  # pyright: ignore[reportAssignmentType]
        return pool(self.rows, self.inverse, self.offsets, mode=mode, segments=self.segments, backend=backend)

    def run_with_gradients(self, operation: str, backend: Backend) -> tuple[Tensor, ...]:
        """The output, and the gradients of rows and, for the operations `ADDING`, of the tables."""
        rows, *tables = (x.detach().requires_grad_() for x in (self.rows, *self.tables))
        out = replace(self, rows=rows, tables=tuple(tables)).run(operation, backend)
        leaves = (rows, *tables) if operation in ADDING else (rows,)
        return out.detach(), *torch.autograd.grad(out, leaves, output_weights(out))


def make_case(lengths: list[int], num_rows: int, width: int, *, used: int | None = None, seed: int = 0) -> Case:
    """Bags of these lengths over `num_rows` rows, of which only the first `used` occur; float64."""
    generator = torch.Generator().manual_seed(seed)
    total = sum(lengths)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()

    def floats(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def integers(high: int) -> Tensor:
        return torch.randint(0, max(high, 1), (total,), generator=generator).int()

    sizes = (9, 2)
    tables = tuple(floats(size, width) for size in sizes)
    indices = tuple(integers(size) for size in sizes)
    return Case(floats(num_rows, width), integers(num_rows if used is None else used), offsets, tables, indices)


def output_weights(out: Tensor) -> Tensor:
    """What the output's gradient is: the same for every backend."""
    generator = torch.Generator().manual_seed(1)
    # Values of bf16, so that each precision is sent the same numbers.
    return torch.randn(out.shape, generator=generator).bfloat16().to(out.dtype).to(out.device)


def assert_truth(case: Case, operation: str, backend: Backend) -> None:
    """Output and gradients are about as close to float64 as plain maths in the same precision; a selection is exact.

    For sums long enough that plain maths is not exact by chance.
    """
    got = case.run_with_gradients(operation, backend)
    truth = case.to("cpu").to(torch.float64).run_with_gradients(operation, "reference")
    plain = case.to("cpu").run_with_gradients(operation, "reference")
    for mine, wanted, simple in zip(got, truth, plain, strict=True):
        assert_close_to_truth(mine, wanted, simple)
    if operation in ("expand", "last", "max"):
        assert torch.equal(got[0].cpu(), plain[0])


def assert_near(case: Case, operation: str, backend: Backend) -> None:
    """fp32 near float64, for sums of any length, the shortest too."""
    got = case.run_with_gradients(operation, backend)
    truth = case.to("cpu").to(torch.float64).run_with_gradients(operation, "reference")
    for mine, wanted in zip(got, truth, strict=True):
        torch.testing.assert_close(mine.cpu().double(), wanted, rtol=1e-5, atol=1e-5)


def assert_same(got: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    """Bitwise."""
    for mine, other in zip(got, expected, strict=True):
        assert torch.equal(mine, other)


def forms(case: Case) -> list[Case]:
    """The same with integers of 64 bits, with a packed inverse, and with known segments."""
    num_rows = len(case.rows)
    indices = tuple(x.long() for x in case.indices)
    wide = replace(case, inverse=case.inverse.long(), offsets=case.offsets.long(), indices=indices)
    packed = replace(case, inverse=pack_index(case.inverse, num_rows))
    segments = segments_of(case.inverse, num_rows)
    return [wide, packed, replace(case, segments=segments), replace(packed, segments=segments)]


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """What `torch.empty` hands out holds NaN or a large number, so that reading before writing shows."""
    real = torch.empty

    def poisoned(*arguments: Any, **options: Any) -> Tensor:
        made = real(*arguments, **options)
        return made.fill_(float("nan") if made.is_floating_point() else 12345)

    with mock.patch.object(torch, "empty", poisoned):
        yield


def far_apart(rows: Tensor, folder: Path) -> Tensor:
    """The same fp16 rows, 2^30 elements from one to the next, in a file of holes: nothing is stored between them."""
    apart = 2**30
    flat = torch.from_file(
        str(folder / "rows"), shared=True, size=(len(rows) - 1) * apart + rows.shape[1], dtype=torch.float16
    )
    return flat.as_strided(rows.shape, (apart, 1)).copy_(rows)
