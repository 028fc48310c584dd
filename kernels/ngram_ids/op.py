"""The kernel in PyTorch: a custom op with a fake form, and the launch behind it.

Legend: N events, M heads.
"""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

from typing import Any

import torch
import triton
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.common.eager import is_eager
from dist_rec.kernels.common.launch import cdiv, launch
from dist_rec.kernels.ngram_ids.kernels import hash_ngrams

CELLS = 1024  # events times heads of a program: 8 of each thread


def tile(heads: int) -> dict[str, Any]:
    """Events and heads of a program, and its warps."""
    columns = triton.next_power_of_2(heads)
    return {"BN": max(CELLS // columns, 16), "BM": columns, "num_warps": 4}


def triton_ngram_ids(
    values: Tensor,
    offsets: Tensor,
    heads: Tensor,
    polynomial: bool,
    hidden: int | None,
    times: Tensor | None,
    gap: int,
) -> Tensor:
    times = None if times is None else times.contiguous()
    run = _hash if is_eager(values) else ngram_rows
    return run(values.contiguous(), offsets.contiguous(), heads.contiguous(), polynomial, hidden, times, gap)


def _hash(
    values: Tensor,
    offsets: Tensor,
    heads: Tensor,
    polynomial: bool,
    hidden: int | None,
    times: Tensor | None,
    gap: int,
) -> Tensor:
    """(N, M) int64"""
    out = torch.empty(len(values), len(heads), dtype=torch.int64, device=values.device)
    if len(values) == 0:
        return out
    sequences, of = len(offsets) - 1, tile(len(heads))
    with on(values.device):
        launch(
            hash_ngrams,
            (cdiv(len(values), of["BN"]),),
            VALUES=values,
            OFFSETS=offsets,
            HEADS=heads,
            TIMES=times,
            OUT=out,
            num_sequences=sequences,
            num_events=len(values),
            halvings=sequences.bit_length(),
            hidden=0 if hidden is None else hidden,
            gap=gap,
            M=len(heads),
            LONGEST=heads.shape[1] - 4,
            POLYNOMIAL=polynomial,
            HAS_HIDDEN=hidden is not None,
            **of,
        )
    return out


ngram_rows = torch.library.custom_op("dist_rec::ngram_rows", _hash, mutates_args=())


@ngram_rows.register_fake
def _(
    values: Tensor,
    offsets: Tensor,
    heads: Tensor,
    polynomial: bool,
    hidden: int | None,
    times: Tensor | None,
    gap: int,
) -> Tensor:
    return values.new_empty(len(values), len(heads))
