"""Operators in a model that is traced: one node, called with what it was given, however it was imported."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.kernels.gather_pool import expand, expand_add, pool
from dist_rec.kernels.unique_ids import segments_of

OFFSETS = torch.tensor([0, 2, 5])
ROWS = torch.arange(15.0).view(5, 3)
INVERSE = torch.tensor([0, 4, 4, 1, 2])

CALLS: dict[str, Callable[[Tensor], Any]] = {
    "cross_causal_attention": lambda x: cross_causal_attention(
        x[:, None], x[:, None], x[:, None], OFFSETS, kv_offsets=OFFSETS
    ),
    "expand": lambda x: expand(x, INVERSE),
    "pool": lambda x: pool(x, inverse=INVERSE, offsets=OFFSETS, mode="mean"),
    "expand_add": lambda x: expand_add(x, INVERSE, [(x, INVERSE)]),
    "segments_of": lambda x: segments_of((x[:, 0] % 3).long(), 3).offsets,
}


class Model(nn.Module):
    def __init__(self, call: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.call = nn.Linear(3, 3), call

    def forward(self, x: Tensor) -> Any:
        return self.call(self.linear(x))


@pytest.mark.parametrize("name", CALLS)
def test_a_traced_model_gives_the_same(name: str) -> None:
    model = Model(CALLS[name])
    traced = torch.fx.symbolic_trace(model)
    nodes = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert [getattr(target, "__name__", "") for target in nodes].count(name) == 1
    assert torch.equal(traced(ROWS), model(ROWS))


@pytest.mark.parametrize("name", ["cross_causal_attention", "expand", "pool", "expand_add"])
def test_a_compiled_model_gives_the_same(name: str) -> None:
    model = Model(CALLS[name])
    torch.testing.assert_close(torch.compile(model, backend="aot_eager")(ROWS), model(ROWS))


def test_classes_that_override_functions_are_asked() -> None:
    class Loud(Tensor):
        asked: list[Any] = []

        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            cls.asked.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    found = expand(ROWS.as_subclass(Loud), INVERSE)
    assert Loud.asked[0] is expand and torch.equal(found.as_subclass(Tensor), ROWS[INVERSE])


def test_it_looks_like_the_operator() -> None:
    def double(x: Tensor) -> Tensor:
        """Twice x."""
        return x * 2

    traced = traceable(double)
    assert (traced.__name__, traced.__doc__, traced.__module__) == ("double", "Twice x.", __name__)
    assert traced(torch.ones(1)).item() == 2.0
