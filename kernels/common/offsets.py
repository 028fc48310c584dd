"""Checks that offsets are prefix sums; the usual mistake is lengths in their place."""

import torch
from torch import Tensor, nn

from dist_rec.kernels.common.native import built, index


def readable(*tensors: Tensor | None) -> bool:
    """Whether reading the values costs nothing: in host memory, and neither compiled nor traced with fake tensors."""
    if torch.compiler.is_compiling():
        return False
    given = [x for x in tensors if x is not None]
    # Tensors of other classes, such as fake ones, may have no values.
    return all(type(x) in (Tensor, nn.Parameter) and x.device.type == "cpu" for x in given)


def check_offsets(name: str, offsets: Tensor, total: int, *, padded: bool = False) -> None:
    """Raises ValueError unless `offsets` (B + 1,) in host memory rise from 0 to `total`, with `padded` to at most that.

    Lengths in the place of offsets are the usual cause: they do not begin at 0, or they fall.
    """
    if _are_offsets(offsets.contiguous(), total, padded):
        return
    first, last = int(offsets[0]), int(offsets[-1])
    upto = f"at most {total}" if padded else str(total)
    got = f"{offsets.tolist()}" if len(offsets) <= 8 else f"{first} to {last}, {len(offsets)} values"
    raise ValueError(
        f"{name} must begin at 0 and never fall, up to {upto}, got {got}; are these lengths? Their offsets are "
        "torch.nn.functional.pad(lengths.cumsum(0), (1, 0))"
    )


def _are_offsets(offsets: Tensor, total: int, padded: bool) -> bool:
    kernels = built()
    if kernels is not None and offsets.dtype in (torch.int32, torch.int64):
        return kernels.check_offsets(*index(offsets), len(offsets), total, padded)
    last = int(offsets[-1])
    whole = last <= total if padded else last == total
    return int(offsets[0]) == 0 and whole and not bool((offsets[1:] < offsets[:-1]).any())
