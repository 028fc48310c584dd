"""Placeholders in `p.grad`: tools can use them like gradients, and autograd cannot add to them."""

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import pytest
import torch
from torch import Tensor, nn

from dist_rec.optim.placeholder import Placeholder


class _Owner:
    def __init__(self) -> None:
        self.gradient, self.resolved = torch.tensor([3.0, 4.0]), []

    def resolve(self, name: str) -> Tensor:
        self.resolved.append(name)
        return self.gradient


def _waiting() -> tuple[nn.Parameter, _Owner]:
    owner, parameter = _Owner(), nn.Parameter(torch.zeros(2))
    parameter.grad = Placeholder.of("weight", parameter, WeakMethod(owner.resolve))
    return parameter, owner


@pytest.mark.parametrize(
    ("use", "expected"),
    [
        (lambda p: float(p.grad.norm()), 5.0),
        (lambda p: float(torch.nn.utils.get_total_norm([p.grad])), 5.0),
        (lambda p: float(torch.nn.utils.clip_grad_norm_([p], 100.0)), 5.0),
        (lambda p: p.grad.numel(), 2),
        (lambda p: p.grad.tolist(), [3.0, 4.0]),
        (lambda p: p.grad.data[0].item(), 3.0),
        (lambda p: (p.grad + 1.0).tolist(), [4.0, 5.0]),
        (lambda p: torch.stack([p.grad, p.grad]).shape, (2, 2)),
        (lambda p: p.grad.numpy().sum(), 7.0),
        (lambda p: torch.cat(tensors=[p.grad.detach()]).sum().item(), 7.0),
        (lambda p: "3." in repr(p.grad), True),
    ],
)
def test_every_use_is_that_of_the_gradient(use: Callable[[nn.Parameter], Any], expected: Any) -> None:
    parameter, owner = _waiting()
    assert use(parameter) == expected
    assert set(owner.resolved) == {"weight"}


def test_changes_in_place_are_changes_of_the_gradient() -> None:
    parameter, owner = _waiting()
    assert parameter.grad is not None
    parameter.grad.mul_(2.0)
    torch._foreach_add_([parameter.grad], 1.0)
    assert owner.gradient.tolist() == [7.0, 9.0]


def test_autograd_adds_nothing_to_it() -> None:
    parameter, _ = _waiting()
    with pytest.raises(RuntimeError, match=r"weight got a second gradient since the last step.*use_reentrant=False"):
        parameter.sum().backward()


def test_it_does_not_keep_its_optimizer_alive() -> None:
    parameter, owner = _waiting()
    del owner
    with pytest.raises(RuntimeError, match="weight: the optimizer that took this gradient is gone"):
        assert parameter.grad is not None and parameter.grad.norm()
