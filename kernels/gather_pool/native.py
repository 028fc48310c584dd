"""Gathering on a CPU in C++, fp32: rows and small tables are added, and their gradients too, in one pass over the
positions, without a sort and without an (N, D) buffer between.

Legend: U unique rows, N positions, D width, T tables.
"""

# torch's stub gives `backward` any number of gradients.
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.native import address, differentiated_once, index, run


def native_expand_add(rows: Tensor, inverse: Tensor, terms: Sequence[tuple[Tensor, Tensor]], gelu: bool) -> Tensor:
    """See `expand_add`; without terms `expand`. Raises IndexError for a value outside of its table."""
    tables = [rows, *(table for table, _ in terms)]
    indices = [inverse.contiguous(), *(index.contiguous() for _, index in terms)]
    return _Gather.apply(gelu, indices, *(table.contiguous() for table in tables))  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gelu: bool, indices: list[Tensor], *tables: Tensor) -> Tensor:
        ctx.gelu, ctx.shapes = gelu, [table.shape for table in tables]
        out = tables[0].new_empty(len(indices[0]), tables[0].shape[1])
        arguments = *_call(gelu, ctx.shapes, indices, tables), out.data_ptr()
        wrong = run("gather_rows", arguments, of=_name(gelu), touched=(*tables, *indices, out))
        if wrong >= 0:
            low, high = (int(x) for x in torch.aminmax(indices[wrong]))
            raise IndexError(f"index must be in [0, {len(tables[wrong])}), got {low} to {high}")
        # Without the GELU the gradient needs the shapes alone.
        ctx.save_for_backward(*indices, *(tables if gelu else ()))
        return out

    @staticmethod
    @differentiated_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad, needed, saved = grad.contiguous(), ctx.needs_input_grad[2:], ctx.saved_tensors
        indices, tables = saved[: len(needed)], saved[len(needed) :] or [None] * len(needed)
        sums = [grad.new_zeros(shape) if wanted else None for shape, wanted in zip(ctx.shapes, needed)]
        shared = _call(ctx.gelu, ctx.shapes, indices, tables)
        arguments = *shared, grad.data_ptr(), *(address(total) for total in sums)
        touched = (*tables, *indices, grad, *sums)
        run("gather_rows_backward", arguments, of=f"{_name(ctx.gelu)}_backward", touched=touched)
        return None, None, *sums


def _name(gelu: bool) -> str:
    return "expand_add_gelu" if gelu else "expand_add"


def _call(
    gelu: bool, shapes: Sequence[torch.Size], indices: Sequence[Tensor], tables: Sequence[Tensor | None]
) -> tuple[int, ...]:
    """The arguments that both passes share, in the order of `read_gather` (kernels/native/_native.cpp)."""
    by_table = zip(shapes, indices, tables, strict=True)
    return (
        torch.get_num_threads(),
        int(gelu),
        len(indices[0]),
        shapes[0][1],
        len(shapes),
        *(number for shape, of, table in by_table for number in (address(table), shape[0], *index(of))),
    )
