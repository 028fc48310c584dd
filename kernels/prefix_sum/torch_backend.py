"""Plain PyTorch that is quick on a CPU: one addition per row, or prefix sums of padded sequences.

Legend: B sequences, N rows, C prefixes, W width.
"""

import torch
from torch import Tensor


def torch_prefix_sum(rows: Tensor, offsets: Tensor, prefix_offsets: Tensor | None, prefix_len: Tensor | None) -> Tensor:
    """(N, W) fp32 or float64 -> (C, W) or (B, W) like rows."""
    lengths = offsets.diff().long()
    sequence = torch.arange(len(lengths), device=rows.device).repeat_interleave(lengths, output_size=len(rows))
    if prefix_offsets is None or prefix_len is None:
        return rows.new_zeros(len(lengths), rows.shape[1]).index_add(0, sequence, rows)
    # Padded, so that neither other sequences nor later rows can change the rounding of a sum.
    longest = int(lengths.max()) if len(lengths) else 0
    position = torch.arange(len(rows), device=rows.device) - offsets.long()[sequence]
    padded = rows.new_zeros(len(lengths) * (longest + 1), rows.shape[1])
    padded = padded.index_copy(0, sequence * (longest + 1) + position + 1, rows)
    sums = padded.view(len(lengths), longest + 1, rows.shape[1]).cumsum(1)
    counts = prefix_offsets.diff().long()
    owner = torch.arange(len(counts), device=rows.device).repeat_interleave(counts, output_size=len(prefix_len))
    return sums[owner, torch.minimum(prefix_len.long(), lengths[owner])]
