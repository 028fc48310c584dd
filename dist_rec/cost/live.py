"""How much memory tensors take while something runs, at its fullest moment; of tensors without values as well.

Counted are storages that operators make, from the operator that makes them until nothing refers to them any more. What
an operator takes and gives back inside itself is not seen. What was there before is not counted.
"""

import weakref
from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GRAIN = 512  # both CUDA's caching allocator and memory of a page's size round up


class LiveBytes(TorchDispatchMode):
    """Follows the storages that operators make inside it. It may be entered again, and goes on."""

    def __init__(self) -> None:
        super().__init__()
        self._changes: list[tuple[int, int]] = []  # of storage by number: bytes that came, or that went
        self._alive: dict[int, int] = {}  # address of a storage -> its number
        self._next = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for x in tree_leaves((args, kwargs)):
            if isinstance(x, Tensor):
                self._follow(x, made=False)
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor):
                self._follow(x, made=True)
        return out

    def hear(self, name: str, tensors: Sequence[Tensor], flops: int) -> None:
        """Of a C++ kernel, which is no operator of torch: what it reads, and last what it writes."""
        self._follow(tensors[-1], made=True)

    def _follow(self, x: Tensor, *, made: bool) -> None:
        storage = x.untyped_storage()
        address = storage._cdata
        if address in self._alive:
            return
        number, nbytes = self._next, -(-storage.nbytes() // GRAIN) * GRAIN if made else 0
        self._alive[address], self._next = number, number + 1
        self._changes.append((number, nbytes))
        weakref.finalize(storage, self._gone, address, number, nbytes).atexit = False

    def _gone(self, address: int, number: int, nbytes: int) -> None:
        self._alive.pop(address, None)
        self._changes.append((number, -nbytes))

    def peak(self) -> int:
        """Bytes at the fullest moment so far."""
        return self._at_peak()[0]

    def at_peak(self, tensors: Iterable[Tensor]) -> int:
        """Bytes of these at that moment, if operators made them and they are still there."""
        there = self._at_peak()[1]
        numbers = {self._alive.get(x.untyped_storage()._cdata) for x in tensors}
        return sum(there.get(number, 0) for number in numbers if number is not None)

    def _at_peak(self) -> tuple[int, dict[int, int]]:
        total = most = length = 0
        for count, (_, nbytes) in enumerate(self._changes):
            total += nbytes
            if total > most:
                most, length = total, count + 1
        there: dict[int, int] = {}
        for number, nbytes in self._changes[:length]:
            there[number] = there.get(number, 0) + nbytes
        return most, there
