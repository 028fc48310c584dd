"""Sums over the first rows of jagged sequences, in fp32 and in the same order every time.

Legend: B sequences, N rows of all of them, C prefixes, W width.
"""

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import HAS_TRITON, Backend, choose
from dist_rec.kernels.common.offsets import check_offsets, readable
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.prefix_sum.reference import reference_prefix_sum
from dist_rec.kernels.prefix_sum.torch_backend import torch_prefix_sum

if HAS_TRITON:
    from dist_rec.kernels.prefix_sum.op import triton_prefix_sum
else:
    triton_prefix_sum = None

__all__ = ["prefix_sum"]

TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@traceable
def prefix_sum(
    rows: Tensor,
    offsets: Tensor,
    prefix_offsets: Tensor | None = None,
    prefix_len: Tensor | None = None,
    *,
    backend: Backend = "auto",
) -> Tensor:
    """The sum of the first `prefix_len` rows of a sequence, for every prefix; of whole sequences without the two.

    What comes after a prefix changes nothing in its sum, not its rounding either.

    Args:
        rows: (N, W) float.
        offsets: (B + 1,) int32 or int64, rising from 0 to N.
        prefix_offsets: (B + 1,) int32 or int64, rising from 0 to C: the prefixes of each sequence.
        prefix_len: (C,) int32 or int64, from 0 to the length of the sequence; more counts as all.
        backend: `triton` (fp32, fp16, bf16), `torch` is quick on a CPU, `reference` a loop; `auto` takes `triton` on
            CUDA where it can, else `torch`.

    Returns:
        (C, W), or (B, W), in fp32; float64 for float64 rows. Bytes moved: the rows of every prefix.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: `backend="triton"` where there is neither a CUDA device nor Triton's interpreter.
    """
    _check(rows, offsets, prefix_offsets, prefix_len)
    obstacle = "" if rows.dtype in TRITON_DTYPES else f"the kernels take fp32, fp16 and bf16, got {rows.dtype}"
    chosen = choose("prefix_sum", backend, rows.device, obstacle)
    if chosen == "triton":
        assert triton_prefix_sum is not None
        return triton_prefix_sum(rows, offsets, prefix_offsets, prefix_len)
    wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
    if chosen == "torch":
        return torch_prefix_sum(wide, offsets, prefix_offsets, prefix_len)
    return reference_prefix_sum(wide, offsets, prefix_offsets, prefix_len)


def _check(rows: Tensor, offsets: Tensor, prefix_offsets: Tensor | None, prefix_len: Tensor | None) -> None:
    if rows.dim() != 2 or not rows.is_floating_point():
        raise ValueError(f"rows must be (N, W) of a floating dtype, got {tuple(rows.shape)} {rows.dtype}")
    if (prefix_offsets is None) != (prefix_len is None):
        raise ValueError("expected both prefix_offsets and prefix_len, or neither, got one of them")
    given = {"offsets": offsets, "prefix_offsets": prefix_offsets, "prefix_len": prefix_len}
    for name, x in given.items():
        if x is None:
            continue
        if x.dim() != 1 or x.dtype not in (torch.int32, torch.int64):
            raise ValueError(f"{name} must be one-dimensional, int32 or int64, got {tuple(x.shape)} {x.dtype}")
        if x.device != rows.device:
            raise ValueError(f"{name} must be on the device of rows, {rows.device}, got {x.device}")
    if len(offsets) == 0 or (prefix_offsets is not None and len(prefix_offsets) != len(offsets)):
        found = None if prefix_offsets is None else len(prefix_offsets)
        raise ValueError(f"offsets and prefix_offsets must be (B + 1,), got ({len(offsets)},) and ({found},)")
    if not readable(offsets, prefix_offsets, prefix_len):
        return
    check_offsets("offsets", offsets, len(rows))
    if prefix_offsets is not None and prefix_len is not None:
        check_offsets("prefix_offsets", prefix_offsets, len(prefix_len))
        if bool((prefix_len < 0).any()):
            raise ValueError(f"prefix_len must be at least 0, got {int(prefix_len.min())}")
