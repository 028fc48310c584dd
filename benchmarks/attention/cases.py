"""Shapes that the attention kernels are measured at, and the least time any kernel could take for them.

Legend: B requests, H heads, d head size, q query rows and n keys of a request, m rows of a candidate's group.
"""

from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Literal

import numpy as np
import torch
from torch import Tensor

Lengths = Literal["fixed", "uniform", "zipf"]


@dataclass(frozen=True)
class Shape:
    """One line of the table. `keys` is the longest history with its globals; a request never has more rows than
    keys, and where `queries` is `keys` it has as many."""

    name: str
    what: str
    requests: int
    heads: int
    head_size: int
    queries: int
    keys: int
    causal: bool = True
    candidates: int = 0
    group_size: int = 2


SHAPES = [
    Shape("A1", "few rows", 256, 4, 32, 32, 1000),
    Shape("A2", "LONGER: k 100, 16 globals", 256, 4, 64, 116, 2000),
    Shape("A3", "one full tile of rows", 128, 8, 64, 128, 2048),
    Shape("A4", "k 256", 64, 8, 64, 272, 4096),
    Shape("A5", "10,000 events", 32, 8, 64, 528, 10_000),
    Shape("A6", "10,000 events, wide", 16, 8, 128, 1040, 10_000),
    Shape("A7", "few requests", 4, 4, 64, 128, 10_000),
    Shape("A8", "HyFormer decoding, no mask", 2048, 4, 64, 16, 1000, causal=False),
    Shape("A9", "self-causal", 16, 16, 128, 2048, 2048),
    Shape("A10", "self, no mask", 64, 4, 64, 1000, 1000, causal=False),
    Shape("C64", "64 candidates over one history, k 32", 64, 4, 64, 160, 1128, candidates=64),
]
TOY = [
    Shape("A1", "few rows", 3, 2, 32, 8, 100),
    Shape("A3", "one full tile of rows", 1, 1, 16, 64, 96),
    Shape("A4", "more rows than a tile", 1, 1, 16, 130, 140),
    Shape("A8", "HyFormer decoding, no mask", 4, 2, 16, 4, 90, causal=False),
    Shape("A10", "self, no mask", 3, 2, 16, 40, 40, causal=False),
    Shape("C4", "4 candidates over one history, k 8", 2, 2, 16, 16, 68, candidates=4),
]


@dataclass(frozen=True)
class Problem:
    """Packed inputs of one shape; q, k, v (rows, H, d), offsets (B + 1,) int32."""

    shape: Shape
    q: Tensor
    k: Tensor
    v: Tensor
    grad: Tensor
    q_offsets: Tensor
    kv_offsets: Tensor
    max_q: int
    max_kv: int
    num_candidates: Tensor | None

    def first(self, requests: int) -> "Problem":
        """The same problem with its first requests only."""
        q_offsets, kv_offsets = self.q_offsets[: requests + 1], self.kv_offsets[: requests + 1]
        rows, keys = int(q_offsets[-1]), int(kv_offsets[-1])
        return replace(
            self,
            q=self.q[:rows],
            k=self.k[:keys],
            v=self.v[:keys],
            grad=self.grad[:rows],
            q_offsets=q_offsets,
            kv_offsets=kv_offsets,
            num_candidates=None if self.num_candidates is None else self.num_candidates[:requests],
        )

    @property
    def pairs(self) -> int:
        """(row, key) pairs that the mask lets through."""
        q, n = (offsets.diff().long() for offsets in (self.q_offsets, self.kv_offsets))
        if not self.shape.causal:
            return int((q * n).sum())
        bottom_right = q * n - q * (q - 1) // 2
        c, m = self.shape.candidates, self.shape.group_size
        # A group's rows do not see the groups before it: sum over groups of (rows of the group) * (keys of earlier
        # groups).
        hidden = m * m * c * (c - 1) // 2
        return int(bottom_right.sum()) - hidden * len(q)

    def flops(self, backward: bool) -> int:
        """2 matmuls forward, 5 backward, useful pairs only."""
        return (10 if backward else 4) * self.shape.heads * self.shape.head_size * self.pairs

    def bytes(self, backward: bool) -> int:
        """What has to be read and written once: q, k, v, o; backward q, k, v, o, dO and dq, dk, dv; a log-sum-exp per
        row."""
        rows, keys = self.q.shape[0], self.k.shape[0]
        values = (4 * keys + 4 * rows) if backward else (2 * keys + 2 * rows)
        return values * self.shape.heads * self.shape.head_size * self.q.element_size() + 4 * rows * self.shape.heads


def make_problem(shape: Shape, lengths: Lengths, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Problem:
    rng = np.random.default_rng(seed)
    globals_ = shape.candidates * shape.group_size
    if lengths == "fixed":
        keys = np.full(shape.requests, shape.keys)
    elif lengths == "uniform":
        keys = rng.integers(shape.keys // 10, shape.keys + 1, shape.requests)
    else:
        keys = np.minimum(rng.zipf(1.2, shape.requests) * (shape.keys // 50 + 1), shape.keys)
    keys = np.maximum(keys, globals_)
    queries = np.minimum(shape.queries, keys)
    generator = torch.Generator(device).manual_seed(seed)

    def rows(count: int) -> Tensor:
        size = (count, shape.heads, shape.head_size)
        return torch.randn(size, generator=generator, device=device).to(dtype)

    offsets = [
        torch.tensor([0, *accumulate(part.tolist())], dtype=torch.int32, device=device) for part in (queries, keys)
    ]
    sum_q, sum_kv = int(queries.sum()), int(keys.sum())
    counts = (
        torch.full((shape.requests,), shape.candidates, dtype=torch.int32, device=device) if shape.candidates else None
    )
    tensors = (rows(sum_q), rows(sum_kv), rows(sum_kv), rows(sum_q))
    return Problem(shape, *tensors, *offsets, int(queries.max()), int(keys.max()), counts)
