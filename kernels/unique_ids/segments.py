"""Where each value of an index occurs, by one stable sort; and ids made unique by the same sort.

Legend: N positions, U values. Only `unique_ids` waits for the device, once, for U.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.kernels.unique_ids.bit_packed import check_index

# The fewer bits a key has, the fewer passes a radix sort takes; torch sorts these widths.
_KEYS = ((2**7 - 1, torch.int8), (2**15 - 1, torch.int16))
_LARGEST = 2**31 - 1


@dataclass(frozen=True)
class Segments:
    """Positions grouped by their value.

    - `order` (N,) int32: positions, sorted by (value, position)
    - `offsets` (U + 1,) int32: value u occurs at the positions `order[offsets[u]:offsets[u + 1]]`
    """

    order: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class UniqueIds:
    """`values` (U,) ascending, like the ids; `inverse` (N,) int32 with `values[inverse] == ids`; its `segments`."""

    values: Tensor
    inverse: Tensor
    segments: Segments


@dataclass(frozen=True)
class BoundedUniqueIds:
    """As `UniqueIds`, with room for N values, of which `count` () int32, on the device, are used.

    Behind them `values` (N,) holds zeros and `segments.offsets` (N + 1,) holds N, so every further segment is empty.
    """

    values: Tensor
    inverse: Tensor
    segments: Segments
    count: Tensor


def sorted_segments(index: Tensor, num_values: int) -> Segments:
    """See `segments_of`. A value outside of [0, num_values) belongs to no segment; its position comes first or last."""
    narrow = next((dtype for limit, dtype in _KEYS if num_values <= limit), torch.int32)
    # Otherwise a value outside could become one inside when it is narrowed.
    keys = index.clamp(-1, min(num_values, _LARGEST)).to(narrow)
    keys, order = torch.sort(keys, stable=True)
    # Comparing needs the last value too, which the narrow keys may not reach.
    values = torch.arange(num_values + 1, dtype=torch.int32, device=index.device)
    return Segments(order.to(torch.int32), torch.searchsorted(keys.to(torch.int32), values, out_int32=True))


def unique_ids_bounded(ids: Tensor) -> BoundedUniqueIds:
    """`ids` (N,) int32 or int64, any values, made unique by one stable sort, without waiting for the device.

    Deterministic: values ascend, and nothing depends on the order of threads. Cost: one sort of N keys, a scan, and
    a few passes of N elements.
    """
    check_index(ids, "ids")
    length, device = len(ids), ids.device
    ordered, order = torch.sort(ids, stable=True)
    first = torch.ones(length, dtype=torch.bool, device=device)
    first[1:] = ordered[1:] != ordered[:-1]
    place = first.cumsum(0, dtype=torch.int32) - 1
    # Equal ids write equal values to one place, so their order does not matter.
    values = torch.zeros_like(ids).scatter_(0, place.long(), ordered)
    inverse = torch.empty_like(place).scatter_(0, order, place)
    # The first position of each value is written; the others go to a last slot, which is cut off.
    offsets = torch.full((length + 2,), length, dtype=torch.int32, device=device)
    slot = torch.where(first, place, length + 1).long()
    offsets = offsets.scatter_(0, slot, torch.arange(length, dtype=torch.int32, device=device))[:-1]
    count = place[-1] + 1 if length else torch.zeros((), dtype=torch.int32, device=device)
    return BoundedUniqueIds(values, inverse, Segments(order.to(torch.int32), offsets), count)


def unique_ids(ids: Tensor) -> UniqueIds:
    """As `unique_ids_bounded`, but with tensors of U values: waits for the device once, for U."""
    found = unique_ids_bounded(ids)
    count = int(found.count)  # host sync: the size of the output
    # Copies, or the short tensors would keep the memory of N values alive.
    segments = Segments(found.segments.order, found.segments.offsets[: count + 1].clone())
    return UniqueIds(found.values[:count].clone(), found.inverse, segments)
