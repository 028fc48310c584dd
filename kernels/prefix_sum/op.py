"""The kernels in PyTorch: custom ops with fake forms and an autograd formula, and the launches behind them.

Legend: B sequences, N rows, C prefixes, W width.
"""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.common.eager import function_of, is_eager, is_eager_backward
from dist_rec.kernels.common.launch import cdiv, launch
from dist_rec.kernels.prefix_sum.kernels import sum_prefix, sum_prefix_backward

# Rows of a tile, on which the order of additions depends.
BN = 32
TILE: dict[str, Any] = {"BN": BN, "num_warps": 4}


def triton_prefix_sum(
    rows: Tensor, offsets: Tensor, prefix_offsets: Tensor | None, prefix_len: Tensor | None
) -> Tensor:
    rows = rows if rows.stride(1) == 1 or rows.shape[1] <= 1 else rows.contiguous()
    run = _eager if is_eager(rows) else prefix_sums
    return run(rows, *(None if x is None else x.contiguous() for x in (offsets, prefix_offsets, prefix_len)))


def _sum(rows: Tensor, offsets: Tensor, prefix_offsets: Tensor | None, prefix_len: Tensor | None) -> Tensor:
    """(C, W) or (B, W) fp32; rows have adjacent columns."""
    count = len(offsets) - 1 if prefix_len is None else len(prefix_len)
    out = torch.empty(count, rows.shape[1], dtype=torch.float32, device=rows.device)
    if out.numel() == 0:
        return out
    width, columns = rows.shape[1], _columns(rows.shape[1])
    sequence = None if prefix_offsets is None else _owners(prefix_offsets, count)
    with on(rows.device):
        launch(
            sum_prefix,
            (count, cdiv(width, columns)),
            ROWS=rows,
            OUT=out,
            OFFSETS=offsets,
            SEQUENCE=sequence,
            PREFIX_LEN=prefix_len,
            row_stride=rows.stride(0),
            WIDTH=width,
            BW=columns,
            **TILE,
        )
    return out


prefix_sums = torch.library.custom_op("dist_rec::prefix_sums", _sum, mutates_args=())


@prefix_sums.register_fake
def _(rows: Tensor, offsets: Tensor, prefix_offsets: Tensor | None, prefix_len: Tensor | None) -> Tensor:
    count = len(offsets) - 1 if prefix_len is None else len(prefix_len)
    return rows.new_empty(count, rows.shape[1], dtype=torch.float32)


def _sum_backward(
    grad: Tensor,
    offsets: Tensor,
    prefix_offsets: Tensor | None,
    prefix_len: Tensor | None,
    num_rows: int,
    dtype: torch.dtype,
) -> Tensor:
    """(N, W) of dtype"""
    width, columns = grad.shape[1], _columns(grad.shape[1])
    out = torch.empty(num_rows, width, dtype=dtype, device=grad.device)
    if out.numel() == 0:
        return out
    with on(grad.device):
        launch(
            sum_prefix_backward,
            (cdiv(num_rows, BN), cdiv(width, columns)),
            GRAD=grad.contiguous(),
            GRAD_ROWS=out,
            OFFSETS=offsets,
            SEQUENCE=_owners(offsets, num_rows),
            PREFIX_OFFSETS=prefix_offsets,
            PREFIX_LEN=prefix_len,
            num_rows=num_rows,
            WIDTH=width,
            BW=columns,
            **TILE,
        )
    return out


prefix_sums_backward = torch.library.custom_op("dist_rec::prefix_sums_backward", _sum_backward, mutates_args=())


@prefix_sums_backward.register_fake
def _(
    grad: Tensor,
    offsets: Tensor,
    prefix_offsets: Tensor | None,
    prefix_len: Tensor | None,
    num_rows: int,
    dtype: torch.dtype,
) -> Tensor:
    return grad.new_empty(num_rows, grad.shape[1], dtype=dtype)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, *layout = inputs
    ctx.save_for_backward(*layout)
    ctx.num_rows, ctx.dtype = len(rows), rows.dtype


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    run: Any = _sum_backward if is_eager_backward(grad) else prefix_sums_backward
    return run(grad, *ctx.saved_tensors, ctx.num_rows, ctx.dtype), None, None, None


prefix_sums.register_autograd(_backward, setup_context=_keep)
_eager = function_of(_sum, _keep, _backward)


def _owners(offsets: Tensor, count: int) -> Tensor:
    """(count,) int32: which part of `offsets` each place belongs to."""
    places = torch.arange(count, dtype=offsets.dtype, device=offsets.device)
    return torch.searchsorted(offsets, places, right=True, out_int32=True) - 1


def _columns(width: int) -> int:
    """Columns of a tile: whole sectors of memory, and enough programs."""
    return min(max(1 << (width - 1).bit_length(), 16), 64)
