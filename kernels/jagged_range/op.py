"""The kernel in PyTorch: a custom op with a fake form, and the launch behind it.

Legend: B sequences, N rows.
"""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.common.eager import is_eager
from dist_rec.kernels.common.launch import cdiv, launch
from dist_rec.kernels.jagged_range.kernels import write_range

BN = 512
TILE: dict[str, Any] = {"BN": BN, "num_warps": 4}


def triton_jagged_range(
    first: Tensor | None, offsets: Tensor, total: int, step: int, most: int | None, dtype: torch.dtype
) -> Tensor:
    first = None if first is None else first.contiguous()
    run = _write if is_eager(offsets) else jagged_numbers
    return run(first, offsets.contiguous(), total, step, most, dtype)


def _write(
    first: Tensor | None, offsets: Tensor, total: int, step: int, most: int | None, dtype: torch.dtype
) -> Tensor:
    """(N,) of dtype"""
    out = torch.empty(total, dtype=dtype, device=offsets.device)
    if total == 0:
        return out
    sequences = len(offsets) - 1
    with on(offsets.device):
        launch(
            write_range,
            (cdiv(total, BN),),
            FIRST=first,
            OFFSETS=offsets,
            OUT=out,
            num_sequences=sequences,
            num_rows=total,
            halvings=sequences.bit_length(),
            most=0 if most is None else most,
            STEP=step,
            HAS_MOST=most is not None,
            **TILE,
        )
    return out


jagged_numbers = torch.library.custom_op("dist_rec::jagged_numbers", _write, mutates_args=())


@jagged_numbers.register_fake
def _(first: Tensor | None, offsets: Tensor, total: int, step: int, most: int | None, dtype: torch.dtype) -> Tensor:
    return offsets.new_empty(total, dtype=dtype)
