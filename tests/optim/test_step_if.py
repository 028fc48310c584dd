"""A step that a flag decides, against the step itself and against none."""

from collections.abc import Callable, Iterable
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from dist_rec.optim import step_if as step_if_module
from dist_rec.optim.muon import BatchedMuon
from dist_rec.optim.step_if import _count_on, step_if

Make = Callable[[Iterable[nn.Parameter]], torch.optim.Optimizer]
OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.1),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
    "muon": lambda p: BatchedMuon(p, lr=0.1),
}


def _optimizer(make: Make, steps: int) -> tuple[nn.Parameter, torch.optim.Optimizer]:
    """After some ordinary steps."""
    parameter = nn.Parameter(torch.arange(6.0).view(2, 3))
    optimizer = make([parameter])
    for step in range(steps):
        _set_gradient(parameter, step)
        optimizer.step()
    return parameter, optimizer


def _set_gradient(parameter: nn.Parameter, seed: int) -> None:
    parameter.grad = torch.randn(2, 3, generator=torch.Generator().manual_seed(seed))


def _state(parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    tensors = {name: x for name, x in optimizer.state[parameter].items() if isinstance(x, Tensor)}
    return {"": parameter.detach().clone(), **deepcopy(tensors)}


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_true_flag_is_the_step_itself(make: Make, steps: int) -> None:
    results = []
    for flagged in (False, True):
        parameter, optimizer = _optimizer(make, steps)
        _set_gradient(parameter, 9)
        if flagged:
            step_if(optimizer, torch.tensor(True))
        else:
            optimizer.step()
        results.append(_state(parameter, optimizer))
    assert results[0].keys() == results[1].keys()
    for name, expected in results[0].items():
        assert torch.equal(results[1][name], expected), name


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_false_flag_changes_nothing(make: Make) -> None:
    """Not even through a gradient that is not a number."""
    parameter, optimizer = _optimizer(make, 2)
    before = _state(parameter, optimizer)
    parameter.grad = torch.full((2, 3), float("nan"))
    step_if(optimizer, torch.tensor(False))
    for name, value in _state(parameter, optimizer).items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_a_first_step_that_is_dropped_leaves_no_trace(make: Make) -> None:
    """SGD's first buffer would be the gradient itself; after a dropped one it is what momentum makes of zeros."""
    parameter, optimizer = _optimizer(make, 0)
    before = parameter.detach().clone()
    parameter.grad = torch.full((2, 3), float("inf"))
    step_if(optimizer, torch.tensor(False))
    assert torch.equal(parameter, before)
    assert all(not x.any() for name, x in _state(parameter, optimizer).items() if name and name != "sum")
    _set_gradient(parameter, 1)
    step_if(optimizer, torch.tensor(True))
    assert torch.isfinite(parameter).all() and not torch.equal(parameter, before)


def test_a_parameter_without_a_gradient_is_left_alone() -> None:
    parameter, optimizer = _optimizer(OPTIMIZERS["adamw"], 1)
    before, parameter.grad = _state(parameter, optimizer), None
    step_if(optimizer, torch.tensor(True))
    assert all(torch.equal(x, before[name]) for name, x in _state(parameter, optimizer).items())


def test_counters_of_steps_are_where_the_flag_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The meta device has the part of a GPU; a state that was loaded later may have brought one of the host."""
    monkeypatch.setattr(step_if_module, "CAPTURABLE", ("meta",))
    parameter, optimizer = _optimizer(OPTIMIZERS["adamw"], 1)
    for group in optimizer.param_groups:
        group["capturable"] = True
    _count_on(optimizer, torch.device("meta"))
    assert optimizer.state[parameter]["step"].is_meta
    parameter, optimizer = _optimizer(OPTIMIZERS["adamw"], 1)
    _count_on(optimizer, torch.device("cpu"))
    assert not optimizer.param_groups[0]["capturable"] and not optimizer.state[parameter]["step"].is_meta
