"""Rows of a table in fewer bits, as FBGEMM quantises them: each row by its own least and largest value.

Legend: R rows, D width.
"""

import torch
from torch import Tensor

from dist_rec.serve.tables import Stored

ROWS_AT_ONCE = 65_536
Shapes = dict[str, tuple[torch.dtype, tuple[int, ...]]]


def stored_shapes(stored: Stored, rows: int, dim: int) -> Shapes:
    """The tensors of a file of a table. Raises ValueError for an odd width in 4 bits."""
    if stored == "fp32":
        return {"weight": (torch.float32, (rows, dim))}
    if stored == "fp16":
        return {"weight": (torch.float16, (rows, dim))}
    if stored == "int8":
        one = (torch.float32, (rows,))
        return {"weight": (torch.uint8, (rows, dim)), "scale": one, "bias": one}
    if dim % 2:
        raise ValueError(f"expected an even width for int4, got {dim}")
    one = (torch.float16, (rows,))
    return {"weight": (torch.uint8, (rows, dim // 2)), "scale": one, "bias": one}


def quantised(stored: Stored, rows: Tensor) -> dict[str, Tensor]:
    """(R, D) float32 rows -> what is stored of them, by the names of `stored_shapes`."""
    if stored == "fp32":
        return {"weight": rows}
    if stored == "fp16":
        most = torch.finfo(torch.float16).max
        return {"weight": rows.clamp(-most, most).half()}
    levels = 255 if stored == "int8" else 15
    low, high = rows.aminmax(dim=1)
    bias = low if stored == "int8" else low.half().float()
    scale = (high - bias) / levels
    scale = scale if stored == "int8" else scale.half().float()
    scale = torch.where(scale > 0, scale, 1.0)
    values = ((rows - bias[:, None]) / scale[:, None]).round().clamp(0, levels).to(torch.uint8)
    if stored == "int8":
        return {"weight": values, "scale": scale, "bias": bias}
    return {"weight": values[:, 0::2] | values[:, 1::2] << 4, "scale": scale.half(), "bias": bias.half()}
