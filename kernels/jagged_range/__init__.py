"""A range of whole numbers for every sequence: places, positions and owners of jagged rows.

Legend: B sequences, N rows of all of them.
"""

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import HAS_TRITON, Backend, choose
from dist_rec.kernels.common.native import index, run, why_not_native
from dist_rec.kernels.common.offsets import check_offsets, readable
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.jagged_range.reference import reference_jagged_range
from dist_rec.kernels.jagged_range.torch_backend import torch_jagged_range

if HAS_TRITON:
    from dist_rec.kernels.jagged_range.op import triton_jagged_range
else:
    triton_jagged_range = None

__all__ = ["jagged_range"]


@traceable
def jagged_range(
    first: Tensor | None,
    offsets: Tensor,
    total: int,
    *,
    step: int = 1,
    most: int | None = None,
    dtype: torch.dtype = torch.int64,
    backend: Backend = "auto",
) -> Tensor:
    """Row i of sequence b: `min(first[b] + step * i, most)`.

    With step 0 every row has the number of its sequence; with `first` the starts of other sequences, rows have places
    in them. One launch and one write of N numbers in the place of a gather and some passes.

    Args:
        first: (B,) int32 or int64; None for zeros, or with step 0 for `0 .. B - 1`.
        offsets: (B + 1,) int32 or int64, rising from 0 to N.
        total: N, known on the host.
        step: -1, 0 or 1.
        most: what larger numbers become.
        dtype: of the result, int32 or int64.
        backend: `triton`; `native` is the loop of a CPU, in C++; `torch`; `reference` is a loop. `auto` takes `triton`
            on CUDA and `native` on a CPU where they can, else `torch`.

    Returns:
        (N,) of `dtype`.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: `backend="triton"` where there is neither a CUDA device nor Triton's interpreter.
    """
    _check(first, offsets, total, step, dtype)
    obstacle = why_not_native(offsets, others=(first,), dtypes=(torch.int32, torch.int64))
    chosen = choose("jagged_range", backend, offsets.device, native_obstacle=obstacle)
    if chosen == "triton":
        assert triton_jagged_range is not None
        return triton_jagged_range(first, offsets, total, step, most, dtype)
    if chosen == "native":
        return _native_jagged_range(first, offsets, total, step, most, dtype)
    run = torch_jagged_range if chosen == "torch" else reference_jagged_range
    if first is None:
        sequences = torch.arange(len(offsets) - 1, device=offsets.device)
        first = sequences if step == 0 else torch.zeros_like(sequences)
    numbers = run(first.long(), offsets.long(), total, step)
    return (numbers if most is None else numbers.clamp(max=most)).to(dtype)


def _native_jagged_range(
    first: Tensor | None, offsets: Tensor, total: int, step: int, most: int | None, dtype: torch.dtype
) -> Tensor:
    first, offsets = None if first is None else first.contiguous(), offsets.contiguous()
    out = torch.empty(total, dtype=dtype)
    bound = torch.iinfo(torch.int64).max if most is None else most
    arguments = *index(first), *index(offsets), len(offsets) - 1, step, bound, *reversed(index(out))
    run("write_range", arguments, of="jagged_range", touched=(first, offsets, out))
    return out


def _check(first: Tensor | None, offsets: Tensor, total: int, step: int, dtype: torch.dtype) -> None:
    if step not in (-1, 0, 1):
        raise ValueError(f"step must be -1, 0 or 1, got {step}")
    if dtype not in (torch.int32, torch.int64):
        raise ValueError(f"dtype must be int32 or int64, got {dtype}")
    for name, x in (("first", first), ("offsets", offsets)):
        if x is not None and (x.dim() != 1 or x.dtype not in (torch.int32, torch.int64)):
            raise ValueError(f"{name} must be one-dimensional, int32 or int64, got {tuple(x.shape)} {x.dtype}")
    if len(offsets) == 0 or (first is not None and len(first) != len(offsets) - 1):
        found = None if first is None else len(first)
        raise ValueError(f"first must be (B,) and offsets (B + 1,), got ({found},) and ({len(offsets)},)")
    if first is not None and first.device != offsets.device:
        raise ValueError(f"first must be on the device of offsets, {offsets.device}, got {first.device}")
    if readable(offsets):
        check_offsets("offsets", offsets, total)
