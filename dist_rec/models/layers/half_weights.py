"""Weights of a part that computes in bf16, cast together.

Autocast casts every weight and bias by a launch of its own, and every gradient back by another: about a quarter of all
launches of a step. Values are the same to the bit, and so are gradients, except of a weight that is used twice: its two
gradients are added in bf16. Rows that reach a LayerNorm are expected in bf16; others are normalised by rounded weights.

What it costs: the gradients of a part come out together, after its backward, so an all-reduce that would start inside
the backward starts then. A delayed update does not mind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dist_rec.models.layers.norm import LayerNorm
from dist_rec.models.layers.per_token import PerTokenLinear

CAST_BY_AUTOCAST = (nn.Linear, PerTokenLinear, LayerNorm)


class HalfWeights:
    """Of the layers inside `module` whose weights autocast, or our LayerNorm, would cast. Other parameters stay as they
    are; so do layers that are put in later, which autocast then casts."""

    def __init__(self, module: nn.Module) -> None:
        layers = [layer for layer in module.modules() if isinstance(layer, CAST_BY_AUTOCAST)]
        self.places = [(layer, name) for layer in layers for name in layer._parameters]

    @contextmanager
    def used(self, dtype: torch.dtype) -> Iterator[None]:
        """Inside, the layers compute with weights in `dtype`."""
        found = [(layer._parameters, name, layer._parameters.get(name)) for layer, name in self.places]
        places = [(held, name, weight) for held, name, weight in found if weight is not None and _is_full(weight)]
        half = _cast(dtype, [weight for _, _, weight in places])
        for (held, name, _), weight in zip(places, half, strict=True):
            held[name] = weight  # pyright: ignore[reportArgumentType] - no Parameter, as in torch.func.functional_call
        try:
            yield
        finally:
            for held, name, weight in places:
                held[name] = weight


def _is_full(weight: Tensor) -> bool:
    return weight.dtype == torch.float32


def _cast(dtype: torch.dtype, weights: list[Tensor]) -> tuple[Tensor, ...]:
    return _CastTogether.apply(dtype, *weights) if weights else ()  # pyright: ignore[reportReturnType]


class _CastTogether(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, dtype: torch.dtype, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        return tuple(_copied(weights, dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        # A weight that was not used gets no gradient, as without the cast.
        full = iter(_copied([grad for grad in grads if grad is not None], torch.float32))
        return None, *(None if grad is None else next(full) for grad in grads)


def _copied(tensors: "list[Tensor] | tuple[Tensor, ...]", dtype: torch.dtype) -> list[Tensor]:
    copies = [torch.empty_like(tensor, dtype=dtype) for tensor in tensors]
    torch._foreach_copy_(copies, list(tensors))
    return copies
