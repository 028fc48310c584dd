"""When an operator may leave torch.library out, and that both ways give the same."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from dist_rec.kernels.common.eager import function_of, is_eager, is_eager_backward


def test_plain_tensors_and_parameters() -> None:
    assert is_eager(torch.ones(1), nn.Parameter(torch.ones(1))) and is_eager()


class Marked(Tensor):
    pass


def under_fake_tensors() -> bool:
    with FakeTensorMode():
        return is_eager(torch.ones(1))


def under_a_mode() -> bool:
    with FlopCounterMode(display=False):
        return is_eager(torch.ones(1))


def under_vmap() -> bool:
    seen: list[bool] = []

    def look(x: Tensor) -> Tensor:
        seen.append(is_eager(torch.ones(1)))
        return x

    torch.vmap(look)(torch.ones(2))
    return seen[0]


def compiled() -> bool:
    def look(x: Tensor) -> Tensor:
        return x + 1 if is_eager(x) else x - 1

    return bool(torch.compile(look, backend="eager", fullgraph=True)(torch.ones(1)) > 1)


WATCHED: dict[str, Callable[[], bool]] = {
    "meta": lambda: is_eager(torch.ones(1), torch.ones(1, device="meta")),
    "subclass": lambda: is_eager(torch.ones(1).as_subclass(Marked)),
    "fake": under_fake_tensors,
    "mode": under_a_mode,
    "vmap": under_vmap,
    "compiled": compiled,
}


@pytest.mark.parametrize("look", WATCHED.values(), ids=WATCHED)
def test_whoever_looks_at_operators_gets_them(look: Callable[[], bool]) -> None:
    assert not look()


def test_a_function_has_the_gradients_of_its_formula() -> None:
    def run(x: Tensor, others: list[Tensor], factor: float) -> tuple[Tensor, Tensor]:
        return factor * x * others[0], x.sum()

    def keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.set_materialize_grads(False)
        ctx.factor = inputs[2]
        ctx.save_for_backward(inputs[1][0], output[0])

    def backward(ctx: Any, grad: Tensor | None, total: Tensor | None) -> tuple[Tensor | None, ...]:
        other, out = ctx.saved_tensors
        assert total is None and out.shape == other.shape
        return None if grad is None else ctx.factor * grad * other, None, None

    x, other = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 5.0])
    out, _ = function_of(run, keep, backward)(x, [other], 2.0)
    assert out.tolist() == [6.0, 20.0]
    out.sum().backward()
    assert x.grad is not None and x.grad.tolist() == [6.0, 10.0]


def test_a_backward_that_makes_a_graph_is_not_eager() -> None:
    seen: list[bool] = []
    x = torch.ones(1, requires_grad=True)
    x.register_hook(lambda grad: seen.append(is_eager_backward(grad)))
    (2 * x).sum().backward()
    (2 * x).sum().backward(create_graph=True)
    assert seen == [True, False]
