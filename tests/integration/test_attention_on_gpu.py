"""What only a GPU can show of the fused attention: bf16, the same bits every time, sizes beyond 32 bits, memory, no
waiting."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from dist_rec.kernels.cross_causal_attention import cross_causal_attention, op
from tests.kernels.cross_causal_attention.cases import MODES, Mode, Request, assert_true, launches, make_case

pytestmark = pytest.mark.gpu
REQUESTS = [
    Request(300, 3, 8),
    Request(0, 1, 2),
    Request(1000, 1, 8),
    Request(64, 2, 4),
    Request(129, 0, 0),
    Request(1, 1, 1),
]
# Every head size in bf16, every dtype at one of them.
KINDS = [*((torch.bfloat16, size) for size in (24, 32, 64, 128, 256)), (torch.float16, 64), (torch.float32, 64)]


@pytest.mark.parametrize("max_q_len", [None, 8], ids=["two passes", "one pass"])
@pytest.mark.parametrize(("dtype", "head_size"), KINDS, ids=str)
def test_output_and_gradients(dtype: torch.dtype, head_size: int, max_q_len: int | None) -> None:
    """16 rows in a tile: 8 rows of a request, two query heads per key-value head."""
    case = make_case(REQUESTS, "prefix", group_size=2, hide=0.1, heads=(4, 2), head_size=head_size).to(dtype)
    with launches() as launched:
        got = case.run_with_gradients("triton", max_q_len=max_q_len)
    assert (op.backward_one_pass in launched) == (max_q_len is not None)
    assert_true(case, got)


@pytest.mark.parametrize("max_q_len", [None, 116], ids=["two passes", "one pass"])
@pytest.mark.parametrize("mode", MODES)
def test_a_full_tile_of_rows(mode: Mode, max_q_len: int | None) -> None:
    requests = [Request(n, 2, min(116, n)) for n in (1000, 130, 1, 777)]
    case = make_case(requests, mode, group_size=2, head_size=64).to(torch.bfloat16)
    assert_true(case, case.run_with_gradients("triton", max_q_len=max_q_len))


@pytest.mark.parametrize("max_q_len", [None, 116], ids=["two passes", "one pass"])
def test_twenty_runs_give_the_same_bits(max_q_len: int | None) -> None:
    requests = [Request(n, 1, min(116, n)) for n in (2000, 1, 777, 3000, 64, 1999) for _ in range(20)]
    case = make_case(requests, "groups", heads=4, head_size=64).to(torch.bfloat16)
    first = case.run_with_gradients("triton", max_q_len=max_q_len)
    for _ in range(19):
        again = case.run_with_gradients("triton", max_q_len=max_q_len)
        assert all(torch.equal(x, y) for x, y in zip(first, again))


@pytest.mark.parametrize("max_q_len", [None, 60], ids=["two passes", "one pass"])
def test_a_request_does_not_depend_on_its_batch(max_q_len: int | None) -> None:
    """The same request among 400 short ones and among 400 of other lengths: the same bits, output and gradients."""
    options = {"group_size": 2, "heads": 4, "head_size": 64}
    mine = make_case([Request(1500, 2, 60)], "groups", **options, seed=7)
    results = []
    for lengths in ([90] * 400, [3000, 60] * 200):
        case = make_case([Request(n, 2, 60) for n in (1500, *lengths)], "groups", **options)
        q, k, v = (torch.cat([own, x[len(own) :]]).bfloat16() for own, x in zip(mine.inputs, case.inputs))
        out, dq, dk, dv = replace(case, q=q, k=k, v=v).run_with_gradients("triton", max_q_len=max_q_len)
        rows, keys = len(mine.q), len(mine.k)
        results.append((out[:rows], dk[:keys], dv[:keys], dq[:rows]))
    assert all(torch.equal(x, y) for x, y in zip(*results))


def _packed(rows: int, heads: int, head_size: int) -> Tensor:
    return torch.randn(rows, heads, head_size, device="cuda", dtype=torch.bfloat16)


def test_more_elements_than_32_bits_count() -> None:
    """The last request starts behind 2^31 elements of K; it must equal the same request alone."""
    heads, size, keys = 8, 128, 2_200_000
    k, v, q = _packed(keys, heads, size), _packed(keys, heads, size), _packed(64, heads, size)
    k.requires_grad_()
    offsets = torch.tensor([0, keys - 500, keys], dtype=torch.int32, device="cuda")
    q_offsets = torch.tensor([0, 32, 64], dtype=torch.int32, device="cuda")
    out = cross_causal_attention(q, k, v, q_offsets, offsets, max_q_len=32)
    (dk,) = torch.autograd.grad(out[32:].float().sum(), k)
    alone = k.detach()[-500:].clone().requires_grad_()
    single = [torch.tensor([0, n], dtype=torch.int32, device="cuda") for n in (32, 500)]
    expected = cross_causal_attention(q[32:], alone, v[-500:], *single, max_q_len=32)
    (dk_alone,) = torch.autograd.grad(expected.float().sum(), alone)
    assert torch.equal(out[32:], expected) and torch.equal(dk[-500:], dk_alone)
    assert not dk[: keys - 500].any()


@pytest.mark.parametrize("rows", [128, 300])
def test_memory_stays_linear(rows: int) -> None:
    """One request of 100,000 keys: what the backward holds beside its inputs and gradients is a tenth of K and V at
    most."""
    k, v, q = (_packed(n, 4, 64).requires_grad_() for n in (100_000, 100_000, rows))
    offsets = [torch.tensor([0, n], dtype=torch.int32, device="cuda") for n in (rows, 100_000)]
    out = cross_causal_attention(q, k, v, *offsets, max_q_len=rows)
    grad = torch.ones_like(out)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    gradients = torch.autograd.grad(out, (q, k, v), grad)
    extra = torch.cuda.max_memory_allocated() - before - sum(x.nbytes for x in gradients)
    assert extra < 0.1 * (k.nbytes + v.nbytes)


@pytest.mark.parametrize("max_q_len", [None, 8])
def test_nothing_waits_for_the_device(max_q_len: int | None) -> None:
    case = (
        make_case([Request(50, 2, 8), Request(7, 1, 3)], "prefix", group_size=2, head_size=16)
        .to(torch.bfloat16)
        .on("cuda")
    )
    leaves = [x.clone().requires_grad_() for x in case.inputs]
    case = replace(case, q=leaves[0], k=leaves[1], v=leaves[2])
    case.run("triton", max_q_len=max_q_len).sum().backward()  # compiled once before waiting is forbidden
    torch.cuda.set_sync_debug_mode("error")
    try:
        case.run("triton", max_q_len=max_q_len).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
