"""What crosses from host to device: named tensors in one buffer, moved by one copy, in integers as narrow as they can be."""

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor
from torchrec.streamable import Pipelineable

ALIGNMENT = 16  # bytes: every tensor starts where any type may start


@dataclass(frozen=True)
class Place:
    """Where a tensor stands in a packet's buffer; `start` in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True)
class Packet(Pipelineable):
    """Tensors by name in one buffer.

    - `buffer` (bytes,) uint8
    - `places` name -> place in the buffer
    """

    buffer: Tensor
    places: dict[str, Place]

    @classmethod
    def of(cls, tensors: dict[str, Tensor], *, pin_memory: bool = False) -> "Packet":
        """Copies CPU tensors side by side, into pinned memory if wanted."""
        places: dict[str, Place] = {}
        end = 0
        for name, tensor in tensors.items():
            places[name] = Place(tensor.dtype, tuple(tensor.shape), -(-end // ALIGNMENT) * ALIGNMENT)
            end = places[name].start + places[name].nbytes
        packet = cls(torch.zeros(end, dtype=torch.uint8, pin_memory=pin_memory), places)
        for name, tensor in tensors.items():
            packet[name].copy_(tensor)
        return packet

    def __getitem__(self, name: str) -> Tensor:
        """The tensor as a view of the buffer."""
        place = self.places[name]
        return self.buffer[place.start : place.start + place.nbytes].view(place.dtype).view(place.shape)

    def get(self, name: str) -> Tensor | None:
        return self[name] if name in self.places else None

    @property
    def nbytes(self) -> int:
        """Bytes that a copy of this packet moves."""
        return self.buffer.nbytes

    def to(self, device: torch.device, non_blocking: bool = False) -> "Packet":
        """One copy; it does not wait only if the buffer is pinned."""
        return Packet(self.buffer.to(device=device, non_blocking=non_blocking), self.places)

    def pin_memory(self) -> "Packet":
        return Packet(self.buffer.pin_memory(), self.places)

    def record_stream(self, stream: torch.Stream) -> None:
        # Torch's stub wants its private base class of streams.
        self.buffer.record_stream(stream)  # pyright: ignore[reportArgumentType]


def narrow(ids: Tensor, num_values: int | None = None) -> Tensor:
    """Ids in the narrowest of uint8, int16 (as if unsigned), int32 and int64 that holds `num_values` values from 0 on.

    Without `num_values`, the largest id decides; ids below zero keep 64 bits.
    """
    if num_values is None:
        low, high = (int(x) for x in torch.aminmax(ids)) if len(ids) else (0, 0)
        num_values = 2**63 if low < 0 else high + 1
    if num_values <= 2**8:
        return ids.to(torch.uint8)
    if num_values <= 2**16:
        return ids.to(torch.int16)  # wraps; `widen` knows
    return ids.to(torch.int32 if num_values <= 2**31 else torch.int64)


def widen(ids: Tensor) -> Tensor:
    """int64 ids from what `narrow` made of them."""
    wide = ids.to(torch.int64)
    return wide & 0xFFFF if ids.dtype == torch.int16 else wide
