"""The C++ kernel of a CPU against the reference."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.slot_attention import Backend, slot_attention
from tests.helpers.closeness import assert_close_to_truth


def _case(groups: int, slots: int, heads: int, size: int, seed: int = 0, share: float = 0.7) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    qkv = torch.randn(groups, slots, 3, heads, size, generator=generator, dtype=torch.float64)
    return qkv.float().double(), torch.rand(groups, slots, generator=generator) < share


def _run(qkv: Tensor, real: Tensor, backend: Backend) -> tuple[Tensor, Tensor]:
    leaf = qkv.clone().requires_grad_()
    out = slot_attention(leaf, real, backend=backend)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=generator).to(out.dtype)
    return out.detach(), torch.autograd.grad(out, leaf, weights)[0]


@pytest.mark.parametrize(("slots", "heads", "size"), [(4, 2, 16), (8, 1, 5), (16, 2, 40), (1, 3, 8), (3, 1, 1)])
def test_is_as_exact_as_plain_maths(slots: int, heads: int, size: int) -> None:
    qkv, real = _case(300, slots, heads, size)
    assert slots > 4 or not real.any(1).all()  # groups without a real slot among them
    results = (_run(qkv.float(), real, "native"), _run(qkv, real, "reference"), _run(qkv.float(), real, "reference"))
    for mine, truth, plain in zip(*results):
        assert_close_to_truth(mine, truth, plain)


@given(st.integers(0, 200), st.integers(1, 16), st.integers(1, 3), st.integers(1, 20), st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_any_shape(groups: int, slots: int, heads: int, size: int, seed: int) -> None:
    qkv, real = _case(groups, slots, heads, size, seed, share=0.4)
    for mine, truth in zip(_run(qkv.float(), real, "native"), _run(qkv, real, "reference")):
        torch.testing.assert_close(mine.double(), truth, rtol=1e-5, atol=1e-5)


def test_slots_that_are_not_real_may_hold_anything() -> None:
    qkv, real = _case(50, 4, 2, 8)
    dirty = qkv.float()
    dirty[:, :, 1:] = dirty[:, :, 1:].masked_fill(~real[:, :, None, None, None], torch.nan)
    for got, expected in zip(_run(dirty, real, "native"), _run(qkv.float(), real, "native")):
        assert torch.equal(got, expected)


def test_threads_change_no_bit() -> None:
    qkv, real = _case(1000, 4, 2, 16)
    expected, threads = _run(qkv.float(), real, "native"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        again = _run(qkv.float(), real, "native")
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(x, y) for x, y in zip(expected, again))


def test_too_many_slots_are_refused_and_auto_takes_torchs_own() -> None:
    qkv, real = _case(3, 17, 1, 4)
    with pytest.raises(ValueError, match="takes at most 16 slots, got 17"):
        slot_attention(qkv.float(), real, backend="native")
    torch.testing.assert_close(
        slot_attention(qkv.float(), real).double(), slot_attention(qkv, real, backend="reference")
    )
