"""The batched Muon against torch's, and against its formula in float64."""

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim._muon import _zeropower_via_newtonschulz
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rec.optim.muon import BatchedMuon, newton_schulz
from tests.helpers.closeness import assert_close_to_truth

SHAPES = [(4, 6), (6, 4), (4, 6), (1, 5), (3, 3), (7, 1), (1, 1), (8, 2)]
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def train(make: Callable[[list[nn.Parameter]], torch.optim.Optimizer], shapes: list[tuple[int, int]]) -> list[Tensor]:
    """Parameters and momenta after three steps."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    optimizer = make(parameters)
    for _ in range(3):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator)
        optimizer.step()
    return [x.detach() for p in parameters for x in (p, optimizer.state[p]["momentum_buffer"])]


@pytest.mark.parametrize("fill", [False, True])
@pytest.mark.parametrize("adjust", ["original", "match_rms_adamw"])
@given(shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=6))
def test_steps_are_those_of_torch(adjust: str, fill: bool, shapes: list[tuple[int, int]]) -> None:
    expected = train(lambda p: torch.optim.Muon(p, lr=0.1, weight_decay=0.2, adjust_lr_fn=adjust), shapes)
    got = train(lambda p: BatchedMuon(p, lr=0.1, weight_decay=0.2, adjust_lr_fn=adjust, fill=fill), shapes)
    for ours, theirs in zip(got, expected, strict=True):
        # A rounding of bf16 in the direction, times the rate, in each of three steps.
        torch.testing.assert_close(ours, theirs, rtol=0, atol=3 * 0.1 * 2**-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_orthogonal_against_float64(dtype: torch.dtype) -> None:
    x = torch.randn(5, 6, 9, generator=torch.Generator().manual_seed(0)).to(dtype)
    truth = newton_schulz(x.double(), COEFFICIENTS, 5, 1e-7)
    plain = torch.stack([_zeropower_via_newtonschulz(one, COEFFICIENTS, 5, 1e-7) for one in x])
    got = newton_schulz(x, COEFFICIENTS, 5, 1e-7)
    assert got.dtype == dtype
    singular = torch.linalg.svdvals(truth)
    assert singular.min() > 0.6 and singular.max() < 1.3, "what the coefficients are made for"
    assert_close_to_truth(got, truth, plain.to(dtype))


def test_a_zero_gradient_gives_no_update() -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = BatchedMuon([parameter], lr=0.1, weight_decay=0.0)
    parameter.grad = torch.zeros(3, 4)
    optimizer.step()
    assert torch.equal(parameter, torch.ones(3, 4))


def test_parameters_without_a_gradient_stay() -> None:
    used, unused = nn.Parameter(torch.ones(3, 4)), nn.Parameter(torch.ones(3, 4))
    optimizer = BatchedMuon([used, unused], lr=0.1)
    used.grad = torch.ones(3, 4)
    optimizer.step()
    assert torch.equal(unused, torch.ones(3, 4)) and unused not in optimizer.state
    assert not torch.equal(used, torch.ones(3, 4))
    used.grad, unused.grad = None, torch.ones(3, 4)
    optimizer.step()
    assert not torch.equal(unused, torch.ones(3, 4))


def test_a_state_of_torch_goes_on() -> None:
    def half(make: type[torch.optim.Muon]) -> tuple[nn.Parameter, torch.optim.Muon]:
        parameter = nn.Parameter(torch.arange(12.0).view(3, 4))
        return parameter, make([parameter], lr=0.1)

    (first, stock), (second, ours) = half(torch.optim.Muon), half(BatchedMuon)
    first.grad = torch.ones(3, 4)
    stock.step()
    second.data.copy_(first)
    ours.load_state_dict(stock.state_dict())
    for parameter, optimizer in ((first, stock), (second, ours)):
        parameter.grad = torch.full((3, 4), 2.0)
        optimizer.step()
    assert torch.equal(stock.state[first]["momentum_buffer"], ours.state[second]["momentum_buffer"])


def test_a_scaler_scales_back_and_skips() -> None:
    parameter, scaled = nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))
    plain, amp = BatchedMuon([parameter], lr=0.1), BatchedMuon([scaled], lr=0.1)
    parameter.grad = torch.arange(9.0).view(3, 3)
    plain.step()
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    scaler.scale(torch.tensor(1.0))  # the scaler starts with its first loss
    scaled.grad = 4.0 * torch.arange(9.0).view(3, 3)
    scaler.step(amp)
    scaler.update()
    assert torch.equal(scaled, parameter)
    scaled.grad = torch.full((3, 3), float("inf"))
    scaler.step(amp)
    assert torch.equal(scaled, parameter)


class Operators(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.number += not any(of.alias_info and not of.alias_info.is_write for of in func._schema.returns)
        return func(*args, **(kwargs or {}))


def test_operators_do_not_grow_with_matrices_of_a_size() -> None:
    def count(copies: int) -> int:
        parameters = [nn.Parameter(torch.ones(shape)) for shape in SHAPES * copies]
        optimizer = BatchedMuon(parameters, lr=0.1, fill=True)
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        with Operators() as operators:
            optimizer.step()
        return operators.number

    assert count(1) == count(5) <= 40, "all are filled up to one size"


def test_a_copy_goes_on() -> None:
    parameter = nn.Parameter(torch.ones(3, 4))
    optimizer = BatchedMuon([parameter], lr=0.1, fill=True, dtype=torch.float32)
    parameter.grad = torch.ones(3, 4)
    optimizer.step()
    copied = deepcopy(optimizer)
    (other,) = copied.param_groups[0]["params"]
    other.grad = torch.ones(3, 4)
    for each in (optimizer, copied):
        each.step()
    assert (
        other is not parameter
        and torch.equal(other, parameter)
        and (copied.dtype, copied.fill) == (torch.float32, True)
    )
