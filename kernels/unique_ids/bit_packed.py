"""An index in as few bits as its largest value needs: an inverse index crosses PCIe with 17 bits, not 32 or 64.

Legend: N elements, W words, b bits of an element. 32 elements fill exactly b words, whatever b is.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

WORD_BITS = 32
MOST_VALUES = 2**31  # values of an int32 index


@dataclass(frozen=True)
class BitPackedIndex:
    """Element i occupies the bits [i * bits, (i + 1) * bits) of a little-endian stream of 32-bit words.

    - `words` (W,) int32, W = `num_words(length, bits)`: the last word is spare, so that a reader may always load two
    - `bits` 1 to 32; at 32 the words are the int32 index itself
    - `length` N
    """

    words: Tensor
    bits: int
    length: int

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= WORD_BITS:
            raise ValueError(f"bits must be 1 to {WORD_BITS}, got {self.bits}")
        if self.words.dtype != torch.int32 or tuple(self.words.shape) != (num_words(self.length, self.bits),):
            raise ValueError(
                f"{self.length} elements of {self.bits} bits need words ({num_words(self.length, self.bits)},) int32, "
                f"got {tuple(self.words.shape)} {self.words.dtype}"
            )

    def __len__(self) -> int:
        return self.length

    @property
    def device(self) -> torch.device:
        return self.words.device

    @property
    def nbytes(self) -> int:
        return self.words.nbytes

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "BitPackedIndex":
        return BitPackedIndex(self.words.to(device, non_blocking=non_blocking), self.bits, self.length)

    def pin_memory(self) -> "BitPackedIndex":
        return BitPackedIndex(self.words.pin_memory(), self.bits, self.length)

    def record_stream(self, stream: torch.Stream) -> None:
        # Torch's stub wants its private base class of streams.
        self.words.record_stream(stream)  # pyright: ignore[reportArgumentType]


def num_words(length: int, bits: int) -> int:
    """32-bit words of `length` elements, the spare word included."""
    return -(-length * bits // WORD_BITS) + 1


def index_bits(num_values: int) -> int:
    """The fewest bits for `num_values` different values; at least 1. ValueError beyond 2^31 values."""
    if not 0 <= num_values <= MOST_VALUES:
        raise ValueError(f"num_values must be 0 to 2^31, got {num_values}")
    return max(1, (num_values - 1).bit_length()) if num_values else 1


def pack_index(index: Tensor, num_values: int) -> BitPackedIndex:
    """The index (N,) int32 or int64 in `index_bits(num_values)` bits per element, on its device.

    On CUDA it waits for the device once, for the smallest and largest value.

    Raises:
        ValueError: a value is outside [0, num_values).
    """
    check_index(index)
    bits = index_bits(num_values)
    if len(index):
        low, high = (
            int(x) for x in torch.aminmax(index)
        )  # host sync: a value too large would overwrite its neighbours
        if low < 0 or high >= num_values:
            raise ValueError(f"values must be in [0, {num_values}), got {low} to {high}")
    words = torch.zeros(num_words(len(index), bits), dtype=torch.int32, device=index.device)
    groups = -(-len(index) // WORD_BITS)
    # Elements k, k + 32, ... start at the same bit of their words, so each k is one strided operation.
    padded = torch.nn.functional.pad(index.to(torch.int32), (0, groups * WORD_BITS - len(index))).view(
        groups, WORD_BITS
    )
    packed = torch.zeros(groups, bits, dtype=torch.int32, device=index.device)
    for k in range(WORD_BITS):
        word, shift = divmod(k * bits, WORD_BITS)
        packed[:, word] |= padded[:, k] << shift
        if shift + bits > WORD_BITS:
            packed[:, word + 1] |= padded[:, k] >> (WORD_BITS - shift)
    words[:-1] = packed.view(-1)[: len(words) - 1]
    return BitPackedIndex(words, bits, len(index))


def unpack(packed: BitPackedIndex) -> Tensor:
    """(N,) int32: as `pack_index`, one strided operation for each of 32 starting bits."""
    bits, length = packed.bits, packed.length
    if bits == WORD_BITS:
        return packed.words[:length].clone()
    groups = -(-length // WORD_BITS)
    words = torch.nn.functional.pad(packed.words[:-1], (0, groups * bits - len(packed.words) + 1)).view(groups, bits)
    index = torch.empty(groups, WORD_BITS, dtype=torch.int32, device=packed.device)
    for k in range(WORD_BITS):
        word, shift = divmod(k * bits, WORD_BITS)
        # Shifts of signed words insert copies of the sign; the masks remove them.
        value = words[:, word] >> shift
        if shift + bits > WORD_BITS:
            value = value & ((1 << (WORD_BITS - shift)) - 1) | words[:, word + 1] << (WORD_BITS - shift)
        index[:, k] = value & ((1 << bits) - 1)
    return index.view(-1)[:length]


def check_index(index: Tensor, name: str = "index") -> None:
    if index.dim() != 1 or index.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{name} must be (N,) int32 or int64, got {tuple(index.shape)} {index.dtype}")
