"""Rows of several tensors at their places in one: written once forward, read once backward.

`index_copy` keeps the tensor that it writes into, by a copy of it, and so does its gradient.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
        ctx.count = rows.shape[0]  # not len(), which fixes a size that torch.export leaves open
        return rows.index_select(0, places)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (grad,), (places,) = grads, ctx.saved_tensors
        return grad.new_zeros(ctx.count, *grad.shape[1:]).index_copy_(0, places, grad), None


@dataclass(frozen=True)
class Placing:
    """Where rows of a part go: all of them to their `place` (N,) in the first result, and those at `chosen` (P,), or
    all if it is None, to `chosen_place` (P,) in the second. All int64 and distinct."""

    place: Tensor
    chosen: Tensor | None
    chosen_place: Tensor


def placed_twice(
    parts: Sequence[Tensor], placings: Sequence[Placing], counts: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """(counts[0], W) with all rows of all parts and (counts[1], W) with the chosen ones, like the first part.

    The gradients of both meet in the rows that were chosen. Autograd would fill the second one up with zeros to the
    size of the first, and add."""
    tensors = [x for p in placings for x in (p.place, p.chosen, p.chosen_place)]
    return _PlacedTwice.apply(counts, tensors, *(part.to(parts[0].dtype) for part in parts))  # pyright: ignore[reportReturnType]


class _PlacedTwice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, counts: tuple[int, int], tensors: Sequence[Tensor | None], *parts: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(*tensors)
        everything, picked = (parts[0].new_empty(count, *parts[0].shape[1:]) for count in counts)
        for part, place, chosen, chosen_place in zip(parts, *_columns(tensors), strict=True):
            everything.index_copy_(0, place, part)
            picked.index_copy_(0, chosen_place, part if chosen is None else part.index_select(0, chosen))
        return everything, picked

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        everything, picked = grads
        found: list[Tensor | None] = []
        columns = _columns(ctx.saved_tensors)
        for needed, place, chosen, chosen_place in zip(ctx.needs_input_grad[2:], *columns, strict=True):
            grad = None
            if needed:
                grad, more = everything.index_select(0, place), picked.index_select(0, chosen_place)
                if chosen is None:
                    grad += more
                else:
                    grad.index_copy_(0, chosen, more.add_(grad.index_select(0, chosen)))
            found.append(grad)
        return None, None, *found


def _columns(tensors: Sequence[Any]) -> tuple[Sequence[Any], ...]:
    return tensors[::3], tensors[1::3], tensors[2::3]
