"""The backend `torch`, for a CPU. Nearly everything is an embedding bag: torch's is threaded and vectorised, sums in
fp32, and writes no (N, D) buffer. Its own backward is not used: a bag over sorted positions is faster (README.md).

Legend: U unique rows, N positions, B bags, D width, T tables.
"""

# torch's stub gives `backward` any number of gradients; each of these has one.
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import embedding_bag

from dist_rec.kernels.gather_pool.checks import known
from dist_rec.kernels.unique_ids import Segments
from dist_rec.kernels.unique_ids.segments import sorted_segments


def torch_expand(rows: Tensor, inverse: Tensor, segments: Segments | None) -> Tensor:
    return _Expand.apply(rows, inverse, *known(segments))


def torch_pool(rows: Tensor, inverse: Tensor, offsets: Tensor, mode: str, segments: Segments | None) -> Tensor:
    if mode == "last":
        return _Last.apply(rows, inverse, offsets)
    return _Pool.apply(rows, inverse, offsets, mode, *known(segments))


def torch_expand_add(
    rows: Tensor, inverse: Tensor, terms: Sequence[tuple[Tensor, Tensor]], segments: Segments | None
) -> Tensor:
    tables, indices = [table for table, _ in terms], [index for _, index in terms]
    return _ExpandAdd.apply(rows, inverse, *known(segments), *tables, *indices)


class _Expand(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inverse: Tensor, order: Tensor | None, offsets: Tensor | None) -> Tensor:
        ctx.save_for_backward(inverse, order, offsets)
        ctx.num_rows = len(rows)
        return rows.index_select(0, inverse)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _rows_gradient(grad, ctx.num_rows, *ctx.saved_tensors), None, None, None


class _Pool(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, inverse: Tensor, bags: Tensor, mode: str, order: Tensor | None, offsets: Tensor | None
    ) -> Tensor:
        code = {"sum": 0, "mean": 1, "max": 2}[mode]
        index, bags = inverse.int(), bags.int()
        out, _, _, largest = torch.embedding_bag(rows, index, bags, False, code, False, None, True)
        ctx.save_for_backward(index, bags, largest if mode == "max" else None, order, offsets)
        ctx.num_rows, ctx.mode, ctx.dtype = len(rows), mode, rows.dtype
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        index, bags, largest, order, offsets = ctx.saved_tensors
        lengths = bags.diff()
        wide = grad if grad.dtype == torch.float64 else grad.float()
        if ctx.mode == "max":
            wide = wide.masked_fill(lengths.eq(0)[:, None], 0.0)
            total = wide.new_zeros(ctx.num_rows, grad.shape[1])
            if len(index):  # else an empty bag has no row to scatter to
                total.scatter_add_(0, largest.long().clamp(min=0), wide)
            return total.to(ctx.dtype), *(None,) * 5
        if ctx.mode == "mean":
            grad = wide / lengths.clamp(min=1)[:, None]
        if order is None:
            segments = sorted_segments(index, ctx.num_rows)
            order, offsets = segments.order, segments.offsets
        segment_ids = torch.arange(len(lengths), dtype=torch.int32, device=bags.device)
        segment_ids = segment_ids.repeat_interleave(lengths, output_size=len(index))
        total = _sums(grad, segment_ids.index_select(0, order), offsets)
        return total.to(ctx.dtype), *(None,) * 5


class _Last(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, inverse: Tensor, bags: Tensor) -> Tensor:
        ctx.num_rows = len(rows)
        empty = bags.diff().eq(0)
        if len(inverse) == 0:
            ctx.save_for_backward(None)
            return rows.new_zeros(len(empty), rows.shape[1])
        last = inverse.index_select(0, (bags[1:] - 1).clamp(min=0))
        # Row U belongs to no bag: its gradient is cut off.
        ctx.save_for_backward(last.masked_fill(empty, len(rows)))
        return rows.index_select(0, last).masked_fill_(empty[:, None], 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (last,) = ctx.saved_tensors
        if last is None:
            return grad.new_zeros(ctx.num_rows, grad.shape[1]), None, None
        return _rows_gradient(grad, ctx.num_rows + 1, last, None, None)[: ctx.num_rows], None, None


class _ExpandAdd(torch.autograd.Function):
    """Rows and tables are joined to one table; a position is a bag of 1 + T of its rows: one pass, rounded once."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, inverse: Tensor, order: Tensor | None, offsets: Tensor | None, *terms: Tensor
    ) -> Tensor:
        tables, indices = terms[: len(terms) // 2], terms[len(terms) // 2 :]
        ctx.save_for_backward(inverse, order, offsets, *indices)
        ctx.shapes = [(len(table), table.dtype) for table in (rows, *tables)]
        wide = rows.dtype
        for table in tables:
            wide = torch.promote_types(wide, table.dtype)
        together, begin = [], 0
        for table, index in zip((rows, *tables), (inverse, *indices)):
            _check_range(index, len(table))
            together.append(index.int() + begin)
            begin += len(table)
        bags = torch.stack(together, 1)
        return embedding_bag(bags, torch.cat([x.to(wide) for x in (rows, *tables)]), mode="sum").to(rows.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        inverse, order, offsets, *indices = ctx.saved_tensors
        needed = [ctx.needs_input_grad[0], *ctx.needs_input_grad[4 : 4 + len(indices)]]
        found: list[Tensor | None] = []
        for wanted, (size, dtype), index in zip(needed, ctx.shapes, (inverse, *indices)):
            segments = (order, offsets) if index is inverse else (None, None)
            # The gradient of a wider table is summed in the dtype of the table.
            found.append(_rows_gradient(grad.to(dtype), size, index, *segments) if wanted else None)
        return found[0], None, None, None, *found[1:], *(None for _ in indices)


def _rows_gradient(
    grad: Tensor, num_rows: int, inverse: Tensor, order: Tensor | None, offsets: Tensor | None
) -> Tensor:
    if order is None or offsets is None:
        segments = sorted_segments(inverse, num_rows)
        order, offsets = segments.order, segments.offsets
    return _sums(grad, order, offsets)


def _sums(source: Tensor, positions: Tensor, offsets: Tensor) -> Tensor:
    """Row u is the sum of `source` at `positions[offsets[u]:offsets[u + 1]]`."""
    return embedding_bag(positions, source.contiguous(), offsets, mode="sum", include_last_offset=True)


def _check_range(index: Tensor, size: int) -> None:
    """In the joined table an index too large would read a row of the next table."""
    if index.device.type == "cpu" and len(index) and not torch.compiler.is_compiling():
        low, high = (int(x) for x in torch.aminmax(index))
        if low < 0 or high >= size:
            raise IndexError(f"index must be in [0, {size}), got {low} to {high}")
