"""The GELU of a CPU against float64."""

import pytest
import torch
from torch.nn import functional

from dist_rec.kernels.gelu import gelu
from tests.helpers.closeness import assert_close_to_truth


@pytest.mark.parametrize("shape", [(0,), (1,), (17,), (3, 5, 7), (40_000,)], ids=str)
def test_is_as_exact_as_torchs_own(shape: tuple[int, ...]) -> None:
    x = 3 * torch.randn(shape, generator=torch.Generator().manual_seed(0))
    grad = torch.randn(shape, generator=torch.Generator().manual_seed(1))

    def run(apply: object, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.clone().requires_grad_()
        out = apply(leaf)  # pyright: ignore[reportCallIssue]
        return out.detach(), torch.autograd.grad(out, leaf, grad.to(out.dtype))[0]

    mine = run(lambda x: gelu(x, backend="native"), x)
    for got, truth, plain in zip(mine, run(functional.gelu, x.double()), run(functional.gelu, x)):
        # On few numbers torch's own may happen to be exact.
        assert_close_to_truth(got, truth, plain + torch.finfo(torch.float32).eps * truth.float(), factor=2.0)


def test_extremes() -> None:
    x = torch.tensor([-torch.inf, -1e30, -50.0, -1e-30, 0.0, 1e-30, 50.0, 1e30, torch.nan]).requires_grad_()
    out = gelu(x, backend="native")
    out.backward(torch.ones_like(out))
    plain = x.detach().clone().requires_grad_()
    functional.gelu(plain).backward(torch.ones_like(out))
    torch.testing.assert_close(out[1:], functional.gelu(plain)[1:], equal_nan=True, rtol=1e-6, atol=2e-6)
    assert x.grad is not None and plain.grad is not None
    torch.testing.assert_close(x.grad[1:-1], plain.grad[1:-1], rtol=1e-6, atol=2e-6)
    assert x.grad[-1].isnan()


def test_threads_change_no_bit_and_strides_do_not_either() -> None:
    x = torch.randn(300, 400)
    expected, threads = gelu(x, backend="native"), torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(gelu(x, backend="native"), expected)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(gelu(x.T, backend="native"), expected.T)


def test_auto_takes_it_where_it_can() -> None:
    x = torch.randn(50)
    assert torch.equal(gelu(x), gelu(x, backend="native"))
    assert torch.equal(gelu(x.double()), functional.gelu(x.double()))
    with pytest.raises(ValueError, match="backend='native' cannot run"):
        gelu(x.double(), backend="native")
