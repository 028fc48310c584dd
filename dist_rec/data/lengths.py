"""How many rows each request has, known on the device and on the host.

Legend: B requests, N rows of all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from dist_rec.kernels.jagged_range import jagged_range


@dataclass(frozen=True, eq=False)
class Lengths:
    """Rows of every request, one request after the other.

    - `given` int32 on the device: the lengths (B,), or if `summed` their prefix sums (B + 1,)
    - `host` (B,) int32, the lengths on the host: no shape that follows from them waits for the device
    - `slots`: where the rows stand, if some places are empty; not of what follows from these lengths

    What follows from them is made at its first use, once, and serves every layer.
    """

    given: Tensor
    host: NDArray[np.int32]
    summed: bool = False
    slots: "Slots | None" = None

    @classmethod
    def of(cls, lengths: Sequence[int] | Tensor, device: torch.device | None = None) -> "Lengths":
        """From numbers on the host, a tensor there included; `device` gets them, by default the CPU.

        Raises ValueError for a tensor that is on another device."""
        if isinstance(lengths, Tensor) and lengths.device.type != "cpu":
            raise ValueError(f"lengths: expected a tensor on the host, got one on {lengths.device}")
        tensor = torch.as_tensor(lengths, dtype=torch.int32)
        return cls(tensor if device is None else tensor.to(device, non_blocking=True), tensor.numpy())

    def __len__(self) -> int:
        return len(self.host)

    @cached_property
    def tensor(self) -> Tensor:
        """(B,) int32"""
        return self.given.diff() if self.summed else self.given

    @cached_property
    def offsets(self) -> Tensor:
        """(B + 1,) int32 prefix sums."""
        return self.given if self.summed else pad(self.given.cumsum(0, dtype=torch.int32), (1, 0))

    @cached_property
    def total(self) -> int:
        """N"""
        total: Any = self.host.sum()
        symbol: Any = total if isinstance(total, torch.SymInt) else None  # of torch.export, which it stays
        return int(total) if symbol is None else symbol

    @cached_property
    def longest(self) -> int:
        return int(self.host.max(initial=0))

    @property
    def starts(self) -> Tensor:
        """(B,) int32: the first row of each request."""
        return self.offsets[:-1]

    @property
    def ends(self) -> Tensor:
        """(B,) int32: one after the last row of each request."""
        return self.offsets[1:]

    @cached_property
    def request(self) -> Tensor:
        """(N,) int32: the request of every row."""
        return jagged_range(None, self.offsets, self.total, step=0, dtype=torch.int32)

    @cached_property
    def rows(self) -> Tensor:
        """(N,) int32: 0 .. N - 1."""
        return torch.arange(self.total, dtype=torch.int32, device=self.given.device)

    @cached_property
    def position(self) -> Tensor:
        """(N,) int64: 0 for the first row of each request."""
        return self.counted_from(None)

    @property
    def slot(self) -> Tensor:
        """(N,) int64: the place of every row in its sequence, empty ones counted."""
        return self.position if self.slots is None else self.slots.position.long()

    @property
    def places(self) -> "Lengths":
        """(B,) places of every sequence, empty ones counted."""
        return self if self.slots is None else self.slots.lengths

    def counted_from(
        self, first: Tensor | None, *, step: int = 1, most: int | None = None, dtype: torch.dtype = torch.int64
    ) -> Tensor:
        """(N,) `min(first + step * position, most)` with `first` (B,) of the request; zeros if None."""
        return jagged_range(first, self.offsets, self.total, step=step, most=most, dtype=dtype)

    def map(self, change: Callable[[Any], Any]) -> "Lengths":
        """`change` of both, elementwise: it has to mean the same for a tensor and for an array."""
        return Lengths(change(self.tensor), change(self.host))

    def plus(self, other: "Lengths") -> "Lengths":
        """Of rows that have the others after them, in every request."""
        return Lengths(self.offsets + other.offsets, self.host + other.host, summed=True)

    def clipped(self, most: int) -> "Lengths":
        """At most so many rows of each request."""
        return self.map(lambda n: n.clip(max=most))

    def times(self, count: int) -> "Lengths":
        """Of `count` rows in the place of each."""
        return Lengths(self.offsets * count, self.host * count, summed=True)

    def of_each(self, rows: "Lengths") -> "Lengths":
        """(rows.total,) the length of the request that each of `rows` belongs to."""
        return Lengths(self.tensor[rows.request], self.host.repeat(rows.host))


@dataclass(frozen=True, eq=False)
class Slots:
    """Places of N rows in sequences that also have empty ones: `position` (N,) int32, ascending in a sequence, on the
    device and on the `host`, and how many places each sequence has."""

    position: Tensor
    host: NDArray[np.int32]
    lengths: Lengths
