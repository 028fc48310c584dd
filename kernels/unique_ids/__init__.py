"""Ids made unique on their device, where each of them occurs, and an inverse index in few bits.

Legend: N positions, U values.
"""

from torch import Tensor

from dist_rec.kernels.common.backend import HAS_TRITON, Backend, choose
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.unique_ids.bit_packed import BitPackedIndex, check_index, index_bits, pack_index, unpack
from dist_rec.kernels.unique_ids.reference import reference_unpack
from dist_rec.kernels.unique_ids.segments import (
    BoundedUniqueIds,
    Segments,
    UniqueIds,
    sorted_segments,
    unique_ids,
    unique_ids_bounded,
)

if HAS_TRITON:
    from dist_rec.kernels.unique_ids.op import triton_unpack
else:
    triton_unpack = None

__all__ = [
    "Backend",
    "BitPackedIndex",
    "BoundedUniqueIds",
    "Segments",
    "UniqueIds",
    "index_bits",
    "pack_index",
    "segments_of",
    "unique_ids",
    "unique_ids_bounded",
    "unpack_index",
]


@traceable
def unpack_index(packed: BitPackedIndex, *, backend: Backend = "auto") -> Tensor:
    """(N,) int32 of a bit-packed index, bitwise the same from every backend.

    Args:
        packed: N elements.
        backend: `triton` is one kernel; `torch` strided shifts; `reference` reads two words per element, in int64;
            `auto` takes `triton` on CUDA where it can, else `torch`, and logs its choice once.

    Raises:
        RuntimeError: `backend="triton"` where there is neither a CUDA device nor Triton's interpreter.
    """
    chosen = choose("unpack_index", backend, packed.device)
    if chosen == "triton":
        assert triton_unpack is not None
        return triton_unpack(packed.words, packed.bits, packed.length)
    return unpack(packed) if chosen == "torch" else reference_unpack(packed)


@traceable
def segments_of(index: Tensor | BitPackedIndex, num_values: int) -> Segments:
    """Where each value of an index occurs: one stable sort of keys as narrow as `num_values` allows. No host sync.

    Args:
        index: (N,) int32 or int64, or bit-packed; values in [0, num_values). A value outside belongs to no segment.
        num_values: U.

    Returns:
        `order` (N,) and `offsets` (U + 1,), both int32.

    Raises:
        ValueError: the index has another shape or dtype.
    """
    if isinstance(index, BitPackedIndex):
        index = unpack_index(index)
    check_index(index)
    return sorted_segments(index, num_values)
