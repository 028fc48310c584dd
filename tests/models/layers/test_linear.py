"""Rounded rows give what plain linear layers give; on a CPU they are switched on here."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from dist_rec.models.layers import linear as module
from dist_rec.models.layers.linear import FEWEST, Linear, linear, rounded
from tests.helpers.closeness import assert_close_to_truth

SHAPES = [(1, 8), (63, 8), (65, 8), (130, 8), (1000, 8), (1025, 8), (7, 11, 8)]


@pytest.fixture
def new_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "has_new_shapes", lambda x: True)


def results(shape: tuple[int, ...], dtype: torch.dtype, bias: bool, apply: object = linear) -> list[Tensor]:
    """The output and the gradients of x, weight and bias."""
    generator = torch.Generator().manual_seed(sum(shape))
    x, weight, b, grad = (
        torch.randn(of, generator=generator).to(dtype) for of in (shape, (5, 8), (5,), (*shape[:-1], 5))
    )
    given = [of.requires_grad_() for of in ((x, weight, b) if bias else (x, weight))]
    out = apply(*given)  # pyright: ignore[reportCallIssue]
    return [out.detach(), *torch.autograd.grad(out, given, grad)]


@pytest.mark.usefixtures("new_shapes")
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no-bias"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_as_exact_as_torchs_own(shape: tuple[int, ...], bias: bool) -> None:
    got = results(shape, torch.float32, bias)
    truth = results(shape, torch.float64, bias, functional.linear)
    plain = results(shape, torch.float32, bias, functional.linear)
    for mine, exact, other in zip(got, truth, plain, strict=True):
        assert mine.shape == exact.shape
        assert_close_to_truth(mine, exact, other + torch.finfo(torch.float32).eps * exact.float(), factor=2.0)


@pytest.mark.usefixtures("new_shapes")
def test_products_have_rounded_rows_and_cut_off_what_is_behind() -> None:
    layer = Linear(8, 5)
    out = layer(torch.randn(1000, 8))
    whole, weight = out.grad_fn.saved_tensors
    assert whole.shape == (rounded(1000), 8)
    assert not whole[1000:].any()
    assert weight is layer.weight
    assert out.shape == (1000, 5)
    assert out.is_contiguous()


@pytest.mark.usefixtures("new_shapes")
def test_zeros_stay_zeros() -> None:
    """They are kept between calls, so nothing may write to them."""
    layer = Linear(8, 8)
    for rows in (130, 5, 1025):
        layer(torch.full((rows, 8), torch.inf)).sum().backward()
    assert module._zeros
    assert not any(block.any() for block in module._zeros.values())
    assert max(map(len, module._zeros.values())) <= 1025 / 8


@pytest.mark.usefixtures("new_shapes")
def test_a_gradient_may_have_any_strides() -> None:
    weight = torch.randn(5, 8, requires_grad=True)
    linear(torch.ones(100, 8), weight).sum().backward()  # an expanded one
    torch.testing.assert_close(weight.grad, torch.full((5, 8), 100.0))


@pytest.mark.usefixtures("new_shapes")
def test_autocast_decides_the_dtype() -> None:
    layer, x = Linear(8, 5), torch.randn(100, 8, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(x)
        plain = functional.linear(x, layer.weight, layer.bias)
    assert out.dtype == plain.dtype == torch.bfloat16
    torch.testing.assert_close(out, plain)
    out.float().sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.float32
    assert layer.weight.grad is not None and layer.weight.grad.dtype == torch.float32


@pytest.mark.usefixtures("new_shapes")
def test_autocast_leaves_float64_as_it_is() -> None:
    layer, x = Linear(8, 5).double(), torch.randn(100, 8, dtype=torch.float64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(x).dtype == functional.linear(x, layer.weight, layer.bias).dtype == torch.float64


@pytest.mark.usefixtures("new_shapes")
@pytest.mark.parametrize("shape", [(100, 8), (7, 11, 8)], ids=str)
def test_what_comes_out_may_be_written_to(shape: tuple[int, ...]) -> None:
    layer, x = Linear(8, 5), torch.randn(shape)
    functional.relu(layer(x), inplace=True).square().sum().backward()
    weight, bias = (of.detach().requires_grad_() for of in (layer.weight, layer.bias))
    functional.linear(x, weight, bias).relu().square().sum().backward()
    torch.testing.assert_close(layer.weight.grad, weight.grad)
    torch.testing.assert_close(layer.bias.grad, bias.grad)


@pytest.mark.usefixtures("new_shapes")
def test_zeros_of_an_inference_serve_training() -> None:
    module._zeros.clear()
    layer, x = Linear(8, 5), torch.randn(100, 8, requires_grad=True)
    with torch.inference_mode():
        layer(torch.randn(100, 8))
    assert module._zeros
    layer(x).sum().backward()
    assert x.grad is not None


@pytest.mark.usefixtures("new_shapes")
def test_no_gradient_where_none_is_wanted() -> None:
    layer = Linear(8, 5)
    layer.weight.requires_grad_(False)
    x = torch.randn(100, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(layer.bias.grad, torch.full((5,), 100.0))


@pytest.mark.usefixtures("new_shapes")
@pytest.mark.parametrize("rows", [0, FEWEST, 1024])
def test_round_numbers_stay_as_they_are(rows: int) -> None:
    layer, x = Linear(8, 5), torch.randn(rows, 8)
    assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))
    assert "Rounded" not in type(layer(x).grad_fn).__name__


def test_a_cpu_rounds_nothing() -> None:
    layer, x = Linear(8, 5), torch.randn(100, 8)
    assert torch.equal(layer(x), functional.linear(x, layer.weight, layer.bias))
    assert "Rounded" not in type(layer(x).grad_fn).__name__


@given(st.integers(0, 2**31))
def test_rounding_adds_an_eighth_at_most(rows: int) -> None:
    assert rows <= rounded(rows) < rows + max(FEWEST, rows / 8 + 1)
    assert rounded(rounded(rows)) == rounded(rows)


def test_an_octave_has_eight_numbers() -> None:
    for octave in range(9, 16):
        assert len({rounded(rows) for rows in range(2**octave + 1, 2 ** (octave + 1) + 1)}) == 8
