"""Rows of several tensors at their places in one: written once forward, read once backward.

`index_copy` keeps the tensor that it writes into, by a copy of it, and so does its gradient.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def placed_rows(parts: Sequence[tuple[Tensor, Tensor]], count: int, *, padded: bool = False) -> Tensor:
    """(count, W) like the first part: row i of each part (N_p, W) at its place (N_p,) int64.

    The places of all parts are distinct. They are all there are, or with `padded` the others are zero.
    """
    rows, places = zip(*parts, strict=True)
    return _PlacedRows.apply(count, padded, places, *(part.to(rows[0].dtype) for part in rows))  # pyright: ignore[reportReturnType]


class _PlacedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, count: int, padded: bool, places: tuple[Tensor, ...], *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*places)
        make = parts[0].new_zeros if padded else parts[0].new_empty
        out = make(count, *parts[0].shape[1:])
        for place, part in zip(places, parts, strict=True):
            out.index_copy_(0, place, part)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (grad,) = grads
        wanted = zip(ctx.saved_tensors, ctx.needs_input_grad[3:], strict=True)
        return None, None, None, *(grad.index_select(0, place) if needed else None for place, needed in wanted)


def picked_rows(rows: Tensor, places: Tensor) -> Tensor:
    """(N, W) -> (P, W): the rows at distinct places (P,) int64; the gradient goes back without adding up."""
    return _PickedRows.apply(rows, places)  # pyright: ignore[reportReturnType]


class _PickedRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, places: Tensor) -> Tensor:
        ctx.save_for_backward(places)
        ctx.count = len(rows)
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), (places,) = grads, ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, places, grad), None
