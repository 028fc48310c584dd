"""What only a GPU can show of unique rows: bf16, the same bits every time, sizes beyond 32 bits, memory, no waiting."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dist_rec.kernels.gather_pool import Mode, expand, expand_add, pool
from dist_rec.kernels.unique_ids import pack_index, segments_of, unique_ids, unique_ids_bounded, unpack_index
from tests.kernels.gather_pool.cases import (
    MODES,
    OPERATIONS,
    Case,
    assert_same,
    assert_truth,
    forms,
    make_case,
    poisoned_memory,
)

pytestmark = pytest.mark.gpu
LENGTHS = [300, 0, 64, 65, 1000, 1, 0, 7, 129, 2000]
# Every width in bf16, every dtype at one of them.
KINDS = [
    *((torch.bfloat16, width) for width in (16, 24, 64, 100, 128, 256, 300)),
    (torch.float16, 64),
    (torch.float32, 64),
]


def _case(lengths: list[int] = LENGTHS, num_rows: int = 700, width: int = 64) -> Case:
    return make_case(lengths, num_rows, width, used=num_rows - 9).to(torch.bfloat16).to("cuda")


@contextmanager
def _no_waiting() -> Iterator[None]:
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize(("dtype", "width"), KINDS, ids=str)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_output_and_gradients(operation: str, dtype: torch.dtype, width: int) -> None:
    """Seven hundred rows, and nine that never occur; then five rows that occur hundreds of times."""
    for num_rows in (700, 14):
        case = make_case(LENGTHS, num_rows, width, used=num_rows - 9).to(dtype).to("cuda")
        with poisoned_memory():
            assert_truth(case, operation, "triton")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_form_of_the_index(operation: str) -> None:
    expected = _case().run_with_gradients(operation, "triton")
    for form in forms(_case()):
        assert_same(form.run_with_gradients(operation, "triton"), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_twenty_runs_give_the_same_bits(operation: str) -> None:
    case = _case([5000, 3, 0, 700] * 10, 300)
    first = case.run_with_gradients(operation, "triton")
    for _ in range(19):
        assert_same(case.run_with_gradients(operation, "triton"), first)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_compiled_equals_eager(operation: str) -> None:
    torch.compiler.reset()
    case = _case()
    rows = case.rows.detach().requires_grad_()
    results = []
    for function in (Case.run, torch.compile(Case.run, fullgraph=True)):
        out = function(replace(case, rows=rows), operation, "auto")
        results.append((out, *torch.autograd.grad(out, rows, torch.ones_like(out))))
    assert_same(*results)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_nothing_waits_for_the_device(operation: str) -> None:
    case = replace(_case(), inverse=pack_index(_case().inverse, 700))
    rows = case.rows.detach().requires_grad_()
    case = replace(case, rows=rows)
    for waiting in (True, False):  # compiled once before waiting is forbidden
        if waiting:
            case.run(operation, "auto").sum().backward()
            continue
        with _no_waiting():
            case.run(operation, "auto").sum().backward()


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_unique_ids(dtype: torch.dtype) -> None:
    ids = torch.randint(-5000, 5000, (100_000,), device="cuda", dtype=dtype)
    expected, inverse = torch.unique(ids, return_inverse=True)
    unique_ids_bounded(ids)
    with _no_waiting():
        bounded = unique_ids_bounded(ids)
        segments = segments_of(inverse, 10_000)
    found = unique_ids(ids)
    count = len(expected)
    assert int(bounded.count) == count and torch.equal(bounded.values[:count], expected)
    assert torch.equal(found.values, expected) and torch.equal(found.inverse.long(), inverse)
    assert torch.equal(found.segments.order, segments.order)
    assert torch.equal(found.segments.offsets, segments.offsets[: count + 1])
    assert torch.equal(found.segments.order.cpu(), torch.sort(inverse.cpu(), stable=True)[1].int())


@pytest.mark.parametrize("bits", [1, 3, 17, 31])
def test_unpacking(bits: int) -> None:
    index = torch.randint(0, 2**bits, (100_001,))
    packed = pack_index(index, 2**bits).pin_memory().to("cuda", non_blocking=True)
    assert torch.equal(unpack_index(packed).cpu(), index.int())
    assert torch.equal(pack_index(index.cuda(), 2**bits).words, packed.words)


def test_more_elements_than_32_bits_count() -> None:
    """The last positions stand behind 2^31 elements of the output and of its gradient."""
    width, length = 256, 8_400_000
    rows = torch.randn(1000, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    inverse = torch.zeros(length, dtype=torch.int32, device="cuda")
    inverse[-1000:] = torch.arange(1000, device="cuda")
    out = expand(rows, inverse)
    assert out.numel() > 2**31 and torch.equal(out[-1000:], rows)
    grad = torch.zeros_like(out)
    grad[-999:] = torch.randn(999, width, device="cuda", dtype=torch.bfloat16)
    (found,) = torch.autograd.grad(out, rows, grad)
    assert torch.equal(found[1:], grad[-999:]) and not found[0].any()
    del out
    table = torch.randn(3, width, device="cuda", dtype=torch.bfloat16)
    index = torch.ones_like(inverse)
    total = expand_add(rows, inverse, [(table, index)])
    assert torch.equal(total[-1000:], (rows.float() + table[1].float()).bfloat16())


def _extra_memory(out: Tensor, leaf: Tensor) -> int:
    grad = torch.ones_like(out)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.autograd.grad(out, leaf, grad)
    return torch.cuda.max_memory_allocated() - before


@pytest.mark.parametrize("mode", MODES)
def test_a_pool_never_holds_all_positions(mode: Mode) -> None:
    """Two million positions of width 256: neither direction takes a third of what they would in bf16."""
    width, length, bags = 256, 2_000_000, 1000
    rows = torch.randn(50_000, width, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    inverse = torch.randint(0, 50_000, (length,), device="cuda").int()
    offsets = torch.arange(0, length + 1, length // bags, device="cuda").int()
    segments = segments_of(inverse, 50_000)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    out = pool(rows, inverse, offsets, mode=mode, segments=segments)
    forward = torch.cuda.max_memory_allocated() - before
    assert max(forward, _extra_memory(out, rows)) < length * width * 2 / 3
