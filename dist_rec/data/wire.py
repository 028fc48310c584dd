"""What crosses from host to device: named tensors in one buffer, moved by one copy, in integers as narrow as they can be."""

import functools
import logging
import os
from dataclasses import dataclass
from math import prod
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor
from torchrec.streamable import Pipelineable

ALIGNMENT = 16  # bytes: every tensor starts where any type may start
SHARED_MEMORY = "/dev/shm"
KEPT_FREE = 0.25  # of shared memory: batches are not the only things that live there (locks of processes, NCCL)

log = logging.getLogger(__name__)


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


def _reduce(packet: Packet) -> tuple[Any, ...]:
    """How a packet goes to another process: its buffer in shared memory, or through the pipe where that has no room.

    What shared memory cannot take would be lost: torch finds out in a thread that nobody listens to.
    """
    if _has_room(packet.nbytes):
        try:
            packet.buffer.share_memory_()
            return Packet, (packet.buffer, packet.places)
        except RuntimeError:  # somebody else was faster
            pass
    return _from_pipe, (packet.buffer.numpy().tobytes(), packet.places)


def _has_room(size: int) -> bool:
    try:
        memory = os.statvfs(SHARED_MEMORY)
    except OSError:
        return False
    if memory.f_blocks == 0:
        return True  # its size has no limit
    return memory.f_bavail * memory.f_frsize - size >= KEPT_FREE * memory.f_blocks * memory.f_frsize


def _from_pipe(content: bytes, places: dict[str, Place]) -> Packet:
    _warn_of_little_room()
    return Packet(torch.frombuffer(bytearray(content), dtype=torch.uint8), places)


@functools.cache
def _warn_of_little_room() -> None:
    log.warning(
        "shared memory (%s) is nearly full: batches come from the reader processes through a pipe, which takes longer; enlarge "
        "it (docker run --shm-size=1g), or set data.workers=0",
        SHARED_MEMORY,
    )


ForkingPickler.register(Packet, _reduce)
