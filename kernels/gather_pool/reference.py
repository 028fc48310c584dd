"""The definitions in plain PyTorch, in any float type up to float64; their gradients are autograd's.

Legend: U unique rows, N positions, B bags, D width. fp16 and bf16 are computed in fp32 and rounded once at the end.
"""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor


def reference_expand(rows: Tensor, inverse: Tensor) -> Tensor:
    return rows[inverse]


def reference_expand_add(rows: Tensor, inverse: Tensor, terms: Sequence[tuple[Tensor, Tensor]], gelu: bool) -> Tensor:
    total = _wide(rows)[inverse]
    for table, index in terms:
        total = total + _wide(table)[index]
    return (torch.nn.functional.gelu(total) if gelu else total).to(rows.dtype)


def reference_pool(rows: Tensor, inverse: Tensor, offsets: Tensor, mode: str) -> Tensor:
    places = offsets.tolist()
    bags = [_wide(rows)[inverse[begin:end]] for begin, end in itertools.pairwise(places)]
    if not bags:
        return rows[:0]
    return torch.stack([_pool_one(bag, mode) for bag in bags]).to(rows.dtype)


def _pool_one(bag: Tensor, mode: str) -> Tensor:
    """(length, D) to (D,)."""
    if len(bag) == 0:
        return bag.sum(0)  # zeros that are part of the graph
    if mode == "max":
        # The first of equal values, and the gradient to it alone; torch's own max promises neither.
        is_largest = (bag == bag.amax(0)) | bag.isnan()
        first = is_largest.int().cumsum(0).mul(is_largest).eq(1).int().argmax(0, keepdim=True)
        return bag.gather(0, first)[0]
    if mode == "last":
        return bag[-1]
    return bag.sum(0) if mode == "sum" else bag.mean(0)


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()
