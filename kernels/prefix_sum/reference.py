"""The definition, a loop over the prefixes; its gradient is autograd's.

Legend: B sequences, N rows, C prefixes, W width.
"""

import torch
from torch import Tensor


def reference_prefix_sum(
    rows: Tensor, offsets: Tensor, prefix_offsets: Tensor | None, prefix_len: Tensor | None
) -> Tensor:
    sums = [rows[:0].sum(0)]  # part of the graph, also without a prefix
    for b, (begin, end) in enumerate(zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)):
        if prefix_offsets is None or prefix_len is None:
            sums.append(rows[begin:end].sum(0))
            continue
        for length in prefix_len[int(prefix_offsets[b]) : int(prefix_offsets[b + 1])].tolist():
            sums.append(rows[begin : min(begin + length, end)].sum(0))
    return torch.stack(sums)[1:]
