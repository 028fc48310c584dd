"""Flat buffers for gradients on their way around the ranks, and which parameter lies where in them."""

from collections.abc import Iterator, Mapping
from itertools import accumulate

import torch
from torch import Tensor, nn


class Bucket:
    """Parameters of one dtype and device whose gradients travel together, one after the other in a flat buffer.

    Buffers are reused: `take` hands out a free one or makes one, `give_back` frees it. `wire_dtype` is the dtype in which
    the gradients travel.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], wire_dtype: torch.dtype | None = None) -> None:
        self.parameters = dict(parameters)
        first = next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        self.wire_dtype = wire_dtype or first.dtype
        self.numel = sum(p.numel() for p in self.parameters.values())
        self.made = 0
        self._free: list[Tensor] = []
        ends = list(accumulate(p.numel() for p in self.parameters.values()))
        self._places = {name: (end - p.numel(), p.shape) for (name, p), end in zip(self.parameters.items(), ends, strict=True)}

    def take(self) -> Tensor:
        if self._free:
            return self._free.pop()
        self.made += 1
        return torch.empty(self.numel, dtype=self.wire_dtype, device=self.device)

    def give_back(self, buffer: Tensor) -> None:
        self._free.append(buffer)

    def views(self, buffer: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Every parameter's part of a flat (numel,) tensor, in the parameter's shape."""
        for name, (start, shape) in self._places.items():
            yield name, buffer[start : start + shape.numel()].view(shape)

    @property
    def nbytes(self) -> int:
        """Memory of all buffers made so far."""
        return self.made * self.numel * self.wire_dtype.itemsize


def lay_out(parameters: Mapping[str, nn.Parameter], cap_bytes: int, wire_dtype: torch.dtype | None = None) -> list[Bucket]:
    """Buckets of at most `cap_bytes` (a larger parameter has one to itself), last parameter first: a backward usually meets
    them in this order. Every rank gets the same buckets, whatever its backward does. `wire_dtype` is for fp32 parameters."""
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
    wires = [wire_dtype if next(iter(members.values())).dtype == torch.float32 else None for members in filled]
    return [Bucket(members, wire) for members, wire in zip(filled, wires, strict=True)]
