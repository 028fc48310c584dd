"""Rows of requests padded to the longest, before the events: the newest event of every request is the last.

Legend: B requests, N events, L events of the longest request, W width.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Padding:
    """`lengths` (B,) of the requests; `longest` is L, known to the host; so is `total`, N."""

    lengths: Tensor
    longest: int
    total: int

    @cached_property
    def place(self) -> Tensor:
        """(N,) int64: the place of each event among the B * L."""
        lengths = self.lengths.long()
        row_end = torch.arange(1, len(lengths) + 1, device=lengths.device) * self.longest
        shift = torch.repeat_interleave(row_end - lengths.cumsum(0), lengths, output_size=self.total)
        return torch.arange(self.total, device=lengths.device) + shift

    @cached_property
    def request(self) -> Tensor:
        """(N,) int64: the request of each event."""
        rows = torch.arange(len(self.lengths), device=self.lengths.device)
        return torch.repeat_interleave(rows, self.lengths, output_size=self.total)

    @cached_property
    def real(self) -> Tensor:
        """(B, L) bool: where an event stands."""
        place = torch.arange(self.longest, device=self.lengths.device)
        return place >= self.longest - self.lengths[:, None]

    def pad(self, rows: Tensor) -> Tensor:
        """(N, W) -> (B, L, W), zeros before the events."""
        padded = rows.new_zeros(len(self.lengths) * self.longest, rows.shape[1])
        return padded.index_copy(0, self.place, rows).view(len(self.lengths), self.longest, -1)
