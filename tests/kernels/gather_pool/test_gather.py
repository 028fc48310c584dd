"""The kernel that expands, in Triton's interpreter where there is no GPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.kernels.gather_pool import expand, expand_add
from dist_rec.kernels.unique_ids import pack_index
from tests.kernels.gather_pool.cases import ADDING, DEVICE, assert_truth, far_apart, make_case, poisoned_memory

OPERATIONS = ("expand", *ADDING)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("width", [1, 24, 64, 100, 300])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_width(operation: str, width: int, dtype: torch.dtype) -> None:
    with poisoned_memory():
        assert_truth(make_case([70], 9, width, used=8).to(dtype).to(DEVICE), operation, "triton")


@given(st.integers(1, 31), st.integers(0, 70), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_every_width_of_a_packed_index(bits: int, length: int, seed: int) -> None:
    """The rows exist up to the first 50 values only; an index of many bits is still read whole."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(0, min(2**bits, 50), (length,), generator=generator)
    rows = torch.randn(min(2**bits, 50), 3, device=DEVICE)
    packed = pack_index(index, 2**bits).to(DEVICE)
    assert packed.bits == bits
    assert torch.equal(expand(rows, packed, backend="triton"), rows[index.to(DEVICE)])


def test_an_index_outside_reads_nothing() -> None:
    """Nobody waits for the device to look at the values; the memory behind the rows stays unread, though."""
    rows, nan = torch.ones(3, 4, device=DEVICE), torch.full((1, 4), float("nan"), device=DEVICE)
    framed = torch.cat([nan, rows, nan])[1:4].requires_grad_()
    index = torch.tensor([0, -1, 2, 3, -(2**31), 2**31 - 1], dtype=torch.int32, device=DEVICE)
    out = expand(framed, index, backend="triton")
    assert out[:, 0].tolist() == [1, 0, 1, 0, 0, 0]
    (grad,) = torch.autograd.grad(out.sum(), framed)
    assert grad[:, 0].tolist() == [1, 0, 1]
    table = torch.ones(2, 4, device=DEVICE)
    assert expand_add(framed, index, [(table, index)], backend="triton")[:, 0].tolist() == [2, 0, 1, 0, 0, 0]


@pytest.mark.parametrize("count", range(5))
def test_any_number_of_terms(count: int) -> None:
    case = make_case([20], 5, 8).to(torch.float32)
    tables = tuple(torch.randn(size, 8) for size in (3, 1, 50, 7))[:count]
    indices = tuple(torch.randint(0, len(table), (20,)) for table in tables)
    assert_truth(replace(case, tables=tables, indices=indices).to(DEVICE), "expand_add", "triton")


def test_rows_behind_2_to_the_31_elements(tmp_path: Path) -> None:
    rows = torch.randn(4, 40).half()
    inverse = torch.tensor([3, 0, 2, 1, 3], dtype=torch.int32)
    apart = far_apart(rows, tmp_path)
    assert apart.stride(0) * 2 == 2**31
    assert torch.equal(expand(apart.to(DEVICE), inverse.to(DEVICE), backend="triton").cpu(), rows[inverse])
