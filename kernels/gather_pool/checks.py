"""Checks of the inputs: a ValueError says what was expected and what came. Nothing here reads a value from a GPU."""

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from dist_rec.kernels.common.offsets import check_offsets, readable
from dist_rec.kernels.unique_ids import BitPackedIndex, Segments

Mode = Literal["sum", "mean", "last", "max"]
Index = Tensor | BitPackedIndex
Term = tuple[Tensor, Tensor]
MOST_TERMS = 4  # of one kernel; the same for every backend, so that a model runs unchanged on CPU and GPU
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_rows(rows: Tensor, inverse: Index, segments: Segments | None) -> None:
    if rows.dim() != 2 or not rows.is_floating_point():
        raise ValueError(f"rows must be (U, D) of a floating dtype, got {tuple(rows.shape)} {rows.dtype}")
    if not isinstance(inverse, BitPackedIndex):
        _check_integers("inverse", inverse)
    _check_device("inverse", inverse.device, rows)
    if segments is None:
        return
    for name, x, size in (("order", segments.order, len(inverse)), ("offsets", segments.offsets, len(rows) + 1)):
        if tuple(x.shape) != (size,) or x.dtype != torch.int32:
            raise ValueError(f"segments.{name} must be ({size},) int32, got {tuple(x.shape)} {x.dtype}")
        _check_device(f"segments.{name}", x.device, rows)


def check_bags(rows: Tensor, inverse: Index, offsets: Tensor, mode: str) -> None:
    if mode not in get_args(Mode):
        raise ValueError(f"mode must be one of {', '.join(get_args(Mode))}, got {mode!r}")
    _check_integers("offsets", offsets)
    _check_device("offsets", offsets.device, rows)
    if len(offsets) == 0:
        raise ValueError("offsets must be (B + 1,), got (0,)")
    if readable(offsets):
        check_offsets("offsets", offsets, len(inverse))


def check_terms(rows: Tensor, inverse: Index, terms: Sequence[Term]) -> None:
    if len(terms) > MOST_TERMS:
        raise ValueError(
            f"at most {MOST_TERMS} terms are added in one pass, got {len(terms)}; add small tables up before"
        )
    for t, (table, index) in enumerate(terms):
        if table.dim() != 2 or table.shape[1] != rows.shape[1] or not table.is_floating_point():
            raise ValueError(
                f"table {t} must be (K, {rows.shape[1]}) of a floating dtype, got {tuple(table.shape)} {table.dtype}"
            )
        _check_integers(f"index {t}", index)
        if len(index) != len(inverse):
            raise ValueError(f"index {t} must have the length of inverse, {len(inverse)}, got {len(index)}")
        _check_device(f"table {t}", table.device, rows)
        _check_device(f"index {t}", index.device, rows)


def why_not_triton(*tables: Tensor) -> str:
    """Why the kernels cannot take these dtypes; empty if they can."""
    missing = [str(x.dtype) for x in tables if x.dtype not in TRITON_DTYPES]
    return f"the kernels take fp32, fp16 and bf16, got {missing[0]}" if missing else ""


def known(segments: Segments | None) -> tuple[Tensor | None, Tensor | None]:
    """`order` and `offsets`, if the segments are known."""
    return (None, None) if segments is None else (segments.order, segments.offsets)


def _check_integers(name: str, x: Tensor) -> None:
    if x.dim() != 1 or x.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be one-dimensional, int32 or int64, got {tuple(x.shape)} {x.dtype}")


def _check_device(name: str, device: torch.device, rows: Tensor) -> None:
    if device != rows.device:
        raise ValueError(f"{name} must be on the device of rows, {rows.device}, got {device}")
