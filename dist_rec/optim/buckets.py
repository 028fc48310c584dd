"""Flat buffers in which gradients are reduced, and the place of every parameter in them."""

from collections.abc import Iterator, Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn


class Bucket:
    """Parameters of one dtype and device whose gradients are reduced together, one after the other in a flat buffer.

    Buffers are reused: `take` returns a free one or allocates one, `give_back` frees it for the next `take`.

    Args:
        parameters: name -> parameter, all of one dtype and device.
        reduce_dtype: dtype of the buffers; by default that of the parameters.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], reduce_dtype: torch.dtype | None = None) -> None:
        self.parameters = dict(parameters)
        first = next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        self.reduce_dtype = reduce_dtype or first.dtype
        self.numel = sum(p.numel() for p in self.parameters.values())
        self.allocated = 0
        self._free: list[Tensor] = []
        starts = accumulate((p.numel() for p in self.parameters.values()), initial=0)
        self._places = {name: (start, p.shape) for (name, p), start in zip(self.parameters.items(), starts)}

    def take(self) -> Tensor:
        """A (numel,) buffer of `reduce_dtype` with undefined values."""
        if self._free:
            return self._free.pop()
        self.allocated += 1
        return torch.empty(self.numel, dtype=self.reduce_dtype, device=self.device)

    def give_back(self, buffer: Tensor) -> None:
        self._free.append(buffer)

    def wipe(self) -> None:
        """Writes zeros over the gradients that free buffers still hold."""
        for buffer in self._free:
            buffer.zero_()

    def views(self, buffer: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Name and view of every parameter's part of a (numel,) tensor, in the shape of the parameter."""
        for name, (start, shape) in self._places.items():
            yield name, buffer[start : start + shape.numel()].view(shape)

    @property
    def nbytes(self) -> int:
        """Memory of all buffers allocated so far, in bytes."""
        return self.allocated * self.numel * self.reduce_dtype.itemsize


def lay_out(
    parameters: Mapping[str, nn.Parameter], cap_bytes: int, reduce_dtype: torch.dtype | None = None
) -> list[Bucket]:
    """Buckets of at most `cap_bytes` (a larger parameter gets a bucket of its own), the same on every rank.

    The last parameter comes first: a backward usually computes gradients in this order. `reduce_dtype` applies to
    buckets of fp32 parameters only.
    """
    open_buckets: dict[tuple[torch.dtype, torch.device], dict[str, nn.Parameter]] = {}
    filled: list[dict[str, nn.Parameter]] = []
    for name, parameter in reversed(list(parameters.items())):
        kind = (parameter.dtype, parameter.device)
        members = open_buckets.setdefault(kind, {})
        if members and sum(p.nbytes for p in members.values()) + parameter.nbytes > cap_bytes:
            filled.append(open_buckets.pop(kind))
            members = open_buckets.setdefault(kind, {})
        members[name] = parameter
    filled += open_buckets.values()
    dtypes = [reduce_dtype if next(iter(members.values())).dtype == torch.float32 else None for members in filled]
    return [Bucket(members, dtype) for members, dtype in zip(filled, dtypes, strict=True)]
