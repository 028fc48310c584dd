"""The definition, a loop over the sequences.

Legend: B sequences, N rows.
"""

import torch
from torch import Tensor


def reference_jagged_range(first: Tensor, offsets: Tensor, total: int, step: int) -> Tensor:
    ranges = [offsets.new_zeros(0)]
    for start, length in zip(first.tolist(), offsets.diff().tolist(), strict=True):
        ranges.append(start + step * torch.arange(length, device=offsets.device))
    return torch.cat(ranges)[:total]
