"""The definitions in plain terms: an element of a bit-packed index, and the segments of an index."""

import torch
from torch import Tensor

from dist_rec.kernels.unique_ids.bit_packed import BitPackedIndex


def read_at(packed: BitPackedIndex, positions: Tensor) -> Tensor:
    """The elements at `positions` (M,) int, as (M,) int32: two neighbouring words hold every element."""
    bit = positions.long() * packed.bits
    word, shift = bit >> 5, bit & 31
    low, high = (packed.words[at].long() & 0xFFFFFFFF for at in (word, word + 1))
    return ((low | high << 32) >> shift & (1 << packed.bits) - 1).to(torch.int32)


def reference_unpack(packed: BitPackedIndex) -> Tensor:
    return read_at(packed, torch.arange(packed.length, device=packed.device))


def reference_segments(index: Tensor, num_values: int) -> tuple[list[int], list[int]]:
    """Positions sorted by (index, position), and where each value's positions begin in them."""
    values = index.tolist()
    order = sorted(range(len(values)), key=lambda i: (values[i], i))
    return order, [sum(value < u for value in values) for u in range(num_values + 1)]


def reference_unique(ids: Tensor) -> tuple[list[int], list[int]]:
    """Values, ascending, and for each id its place among them."""
    values = sorted(set(ids.tolist()))
    place = {value: u for u, value in enumerate(values)}
    return values, [place[value] for value in ids.tolist()]
