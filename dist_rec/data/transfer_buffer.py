"""Named tensors in one buffer, which one copy moves from host to device, and ids in the smallest integer type."""

import functools
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from torch import Tensor

ALIGNMENT = 16  # bytes, enough for every dtype
SHARED_MEMORY = "/dev/shm"
KEPT_FREE = 0.25  # of shared memory, for other users (locks of processes, NCCL)

_GAP = torch.zeros(ALIGNMENT, dtype=torch.uint8)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BufferSlot:
    """Place of a tensor in a transfer buffer; `start` in bytes."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, eq=False)
class TransferBuffer(Mapping[str, Tensor]):
    """Tensors by name, each a view of one buffer.

    - `buffer` (bytes,) uint8
    - `slots` name -> place of the tensor
    """

    buffer: Tensor
    slots: dict[str, BufferSlot]

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor], *, pin_memory: bool = False) -> "TransferBuffer":
        """Copies CPU tensors side by side, into pinned memory with `pin_memory`."""
        slots: dict[str, BufferSlot] = {}
        parts: list[Tensor] = []
        end = 0
        for name, tensor in tensors.items():
            start = -(-end // ALIGNMENT) * ALIGNMENT
            if end < start:
                parts.append(_GAP[: start - end])  # equal tensors make equal bytes
            parts.append(_bytes_of(tensor))
            slots[name] = BufferSlot(tensor.dtype, tuple(tensor.shape), start)
            end = start + tensor.nbytes
        buffer = torch.empty(end, dtype=torch.uint8, pin_memory=pin_memory)
        return cls(torch.cat(parts, out=buffer) if parts else buffer, slots)

    def __getitem__(self, name: str) -> Tensor:
        slot = self.slots[name]
        return self.buffer[slot.start : slot.start + slot.nbytes].view(slot.dtype).view(slot.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.slots)

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def nbytes(self) -> int:
        """Bytes that a copy of this buffer moves."""
        return self.buffer.nbytes

    def map(self, move: Callable[[Tensor], Tensor]) -> "TransferBuffer":
        """The same tensors in `move(buffer)`, such as a copy on a device."""
        return TransferBuffer(move(self.buffer), self.slots)


def _bytes_of(tensor: Tensor) -> Tensor:
    flat = tensor.reshape(-1)
    if flat.stride(0) != 1:  # a single value may have any stride, but `view` accepts none
        flat = flat.clone(memory_format=torch.contiguous_format)
    return flat.view(torch.uint8)


def shrink_ids(ids: Tensor, num_values: int | None = None) -> Tensor:
    """Ids in the smallest of uint8, int16 (as if unsigned), int32 and int64 that holds `num_values` values from 0 on.

    Without `num_values`, the largest id decides; ids below zero keep 64 bits."""
    if num_values is None:
        low, high = (int(x) for x in torch.aminmax(ids)) if len(ids) else (0, 0)
        num_values = 2**63 if low < 0 else high + 1
    if num_values <= 2**8:
        return ids.to(torch.uint8)
    if num_values <= 2**16:
        return ids.to(torch.int16)  # wraps; `restore_ids` undoes it
    return ids.to(torch.int32 if num_values <= 2**31 else torch.int64)


def restore_ids(ids: Tensor) -> Tensor:
    """The int64 ids from before `shrink_ids`."""
    restored = ids.to(torch.int64)
    return restored & 0xFFFF if ids.dtype == torch.int16 else restored


def _reduce(sent: TransferBuffer) -> tuple[Any, ...]:
    """Pickles a transfer buffer for another process: in shared memory, or through the pipe if that has no room.

    Without the check, the batch would be lost: torch meets the error in a thread whose errors nobody reads."""
    if sent.nbytes <= shared_memory_room():
        try:
            sent.buffer.share_memory_()
            return TransferBuffer, (sent.buffer, sent.slots)
        except RuntimeError:  # another process took the room
            pass
    return _from_pipe, (sent.buffer.numpy().tobytes(), sent.slots)


def shared_memory_room() -> float:
    """Bytes of shared memory that batches may take now; infinite where its size has no limit, 0 where there is none."""
    try:
        memory = os.statvfs(SHARED_MEMORY)
    except OSError:
        return 0.0
    if memory.f_blocks == 0:
        return math.inf
    return max(memory.f_bavail - KEPT_FREE * memory.f_blocks, 0.0) * memory.f_frsize


def _from_pipe(content: bytes, slots: dict[str, BufferSlot]) -> TransferBuffer:
    _warn_of_little_room()
    return TransferBuffer(torch.frombuffer(bytearray(content), dtype=torch.uint8), slots)


@functools.cache
def _warn_of_little_room() -> None:
    log.warning(
        "shared memory (%s) is nearly full: batches come from the reader processes through a pipe, which takes longer; "
        "enlarge it (docker run --shm-size=1g), or set data.workers=0",
        SHARED_MEMORY,
    )


ForkingPickler.register(TransferBuffer, _reduce)
