"""Stand-ins for the streams, events, pinned memory and collectives of a GPU, on CPU tensors, that find accesses of
memory which nothing orders.

Everything runs at once and in the order of the program, so values are right whatever a wait is worth. What a GPU would
know is kept beside it, see happens_before.py.

Tensors are device memory, except what is pinned, what `torch.tensor` makes without a `torch.device`, what is made under
`on_host`, and what is computed from such memory alone.
"""

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.helpers.happens_before import Clock, Lane, Ledger, Memory, place

# Positions of the tensors that a collective writes, of those that it reads.
COLLECTIVES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "all_reduce": ((0,), (0,)),
    "broadcast": ((0,), (0,)),
    "all_to_all_single": ((0,), (1,)),
    "all_gather_into_tensor": ((0,), (1,)),
    "reduce_scatter_tensor": ((0,), (1,)),
    "all_gather": ((0,), (1,)),
}
SHAPES_ONLY = ("new_", "empty", "zeros_like", "ones_like", "full_like", "rand")  # operators that read no value


class Stream(Lane):
    """In place of torch.cuda.Stream."""

    device = torch.device("cuda")

    def __init__(self, world: "Streams", name: str) -> None:
        super().__init__(name)
        self.world = world

    def wait_stream(self, other: "Stream") -> None:
        self.world.wait(self, other.clock, "wait_stream")

    def wait_event(self, event: "Event") -> None:
        self.world.wait(self, event.clock, "wait_event")

    def record_event(self, event: "Event | None" = None) -> "Event":
        event = Event(self.world) if event is None else event
        event.record(self)
        return event

    def synchronize(self) -> None:
        self.world.wait(self.world.host, self.clock, "synchronize")


class Event:
    """In place of torch.cuda.Event."""

    def __init__(self, world: "Streams") -> None:
        self.world, self.clock = world, Clock()

    def record(self, stream: Stream | None = None) -> None:
        self.clock = dict((stream or self.world.current).clock)

    def wait(self, stream: Stream | None = None) -> None:
        self.world.wait(stream or self.world.current, self.clock, "wait_event")

    def synchronize(self) -> None:
        self.world.wait(self.world.host, self.clock, "synchronize")


class Work(dist.Work):
    """Of a collective; as NCCL's does, it keeps its tensors until it is waited for."""

    def __init__(self, world: "Streams", lane: Lane, waiting: Lane | None, tensors: list[Tensor]) -> None:
        super().__init__()
        self.world, self.clock, self.waiting, self.tensors = world, dict(lane.clock), waiting, tensors

    def wait(self, timeout: Any = None) -> bool:
        self.world.wait(self.waiting or self.world.current, self.clock, "work.wait")
        self.tensors = []
        return True


class Streams(TorchDispatchMode):
    """Inside `with`, the stand-ins are in the place of torch's, and what runs is watched.

    Args:
        without: a place from `waits` that has no effect, to show that it is needed.

    Attributes:
        waits: every wait and `record_stream` in dist_rec that ran: kind, file and line.
    """

    def __init__(self, without: str = "") -> None:
        super().__init__()
        self.without = without
        self.host, self.default = Lane("host"), Stream(self, "default")
        self.current = self.default
        self.ledger = Ledger(self.host)
        self.waits: set[str] = set()
        self._groups: dict[int, Lane] = {}
        self._made_on_host = False
        self._patches = ExitStack()

    def stream(self, name: str) -> Any:
        return Stream(self, name)

    @contextmanager
    def on(self, stream: Stream | None) -> Iterator[None]:
        """torch.cuda.stream"""
        before, self.current = self.current, self.current if stream is None else stream
        try:
            yield
        finally:
            self.current = before

    @contextmanager
    def on_host(self) -> Iterator[None]:
        """What is made here is in pinned memory."""
        before, self._made_on_host = self._made_on_host, True
        try:
            yield
        finally:
            self._made_on_host = before

    def wait(self, lane: Lane, clock: Clock, kind: str) -> None:
        self.ledger.free()
        if self._has_effect(kind):
            lane.after(clock)

    def __enter__(self) -> "Streams":
        patches: list[tuple[Any, str, Any]] = [
            (torch.cuda, "stream", self.on),
            (torch.cuda, "current_stream", lambda device=None: self.current),
            (torch.cpu, "current_stream", lambda device=None: self.current),
            (torch, "tensor", _then(torch.tensor, self._is_data)),
            (torch, "empty", self._pinning(torch.empty)),
            (torch, "zeros", self._pinning(torch.zeros)),
            (Tensor, "pin_memory", lambda tensor: self._to_host(tensor)),
            (Tensor, "record_stream", lambda tensor, stream: self._record_stream(tensor, stream)),
            (Tensor, "tolist", _first(Tensor.tolist, self._read_by_host)),
            (Tensor, "to", self._to(Tensor.to)),
            *((dist, name, self._collective(name, getattr(dist, name))) for name in COLLECTIVES),
        ]
        for owner, name, stand_in in patches:
            self._patches.enter_context(mock.patch.object(owner, name, stand_in))
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._patches.close()
        self.ledger.free()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.ledger.free()
        name, kwargs = func._schema.name, kwargs or {}
        found = func(*args, **kwargs)
        if name.startswith(("c10d::", "prim::")):
            return found  # collectives are the business of `_collective`
        written, read = _by_use(func, args, kwargs)
        made = [] if _gives_views(func) else [x for x in _tensors(found) if self.ledger.find(x) is None]
        known = [self._of(x) for x in (*written, *read)]
        on_host = all(memory.owner is None for memory in known) if known else self._made_on_host
        lane = self.host if on_host else self.current
        for x in made:
            self.ledger.allocate(x, None if on_host else self.current)
        copies = name in ("aten::copy_", "aten::_to_copy", "aten::clone")
        self.ledger.start(lane)
        for x in read:
            # A number in host memory is read when the operator is launched.
            by_value = x.ndim == 0 and not on_host and not copies and self._of(x).owner is None
            self.ledger.read(x, self.host if by_value else lane, name)
        for x in (*written, *(() if "empty" in name else made)):
            self.ledger.write(x, lane, name)
        if name == "aten::_local_scalar_dense" and not on_host:
            self.host.after(lane.clock)
        return found

    @property
    def races(self) -> list[str]:
        """What is not ordered, in words; empty if all is well."""
        return list(self.ledger.races)

    def _of(self, tensor: Tensor) -> Memory:
        """Of memory that no operator made, the default stream is the owner."""
        found = self.ledger.find(tensor)
        return self.ledger.allocate(tensor, None if self._made_on_host else self.default) if found is None else found

    def _has_effect(self, kind: str) -> bool:
        # A KeyedJaggedTensor that records its tensors stands for whoever asked it to.
        wait = f"{kind} at {place(but=f'torchrec{os.sep}sparse{os.sep}')}"
        if f"at dist_rec{os.sep}" in wait:
            self.waits.add(wait)
        return wait != self.without

    def _record_stream(self, tensor: Tensor, stream: Stream) -> None:
        if self._has_effect("record_stream"):
            self._of(tensor).recorded.append(stream)

    def _pinning(self, make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def call(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
            if not pin_memory:
                return make(*args, **kwargs)
            with self.on_host():
                return make(*args, **kwargs)

        return call

    def _is_data(self, made: Tensor, *args: Any, **kwargs: Any) -> None:
        on_device = isinstance(kwargs.get("device"), torch.device)
        self.ledger.allocate(made, self.current if on_device else None)

    def _to_host(self, tensor: Tensor) -> Tensor:
        made = torch.empty_like(tensor)
        self.ledger.allocate(made, None)
        return made.copy_(tensor)

    def _to(self, real: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """A copy to the device where the tensor is in host memory, on the current stream."""

        def call(tensor: Tensor, *args: Any, non_blocking: bool = False, **kwargs: Any) -> Tensor:
            moves = any(isinstance(x, torch.device) for x in (*args, kwargs.get("device")))
            if not (moves and type(tensor) is Tensor and self._of(tensor).owner is None):
                return real(tensor, *args, non_blocking=non_blocking, **kwargs)
            made = torch.empty(tensor.shape, dtype=tensor.dtype)
            self.ledger.allocate(made, self.current)
            made.copy_(tensor)
            if not non_blocking:
                self.host.after(self.current.clock)
            return made

        return call

    def _read_by_host(self, tensor: Tensor, *_: Any) -> None:
        """Of device memory: through a copy on the current stream, which the host waits for."""
        if type(tensor) is Tensor:
            lane = self.host if self._of(tensor).owner is None else self.current
            self.ledger.start(lane)
            self.ledger.read(tensor, lane, "tolist")
            self.host.after(lane.clock)

    def _collective(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        writes, reads = COLLECTIVES[name]

        @functools.wraps(real)
        def call(*args: Any, group: Any = None, async_op: bool = False, **kwargs: Any) -> Any:
            self.ledger.free()
            tensors = [*args, *(kwargs.get(key) for key in ("tensor", "output", "input") if key in kwargs)]
            written, read = ([x for i in of for x in _tensors(tensors[i])] for of in (writes, reads))
            on_host = all(self._of(x).owner is None for x in (*written, *read))
            lane = self._groups.setdefault(id(group), Lane(f"group {len(self._groups)}{' of hosts' * on_host}"))
            lane.after(self.host.clock if on_host else self.current.clock)
            self.ledger.start(lane)
            for x in read:
                self.ledger.read(x, lane, name)
            for x in written:
                self.ledger.write(x, lane, name)
            real(*args, group=group, async_op=False, **kwargs)
            work = Work(self, lane, self.host if on_host else None, [*written, *read])
            return work if async_op else (self.host if on_host else self.current).after(lane.clock)

        return call


def _then(real: Callable[..., Any], also: Callable[..., None]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        made = real(*args, **kwargs)
        also(made, *args, **kwargs)
        return made

    return call


def _first(real: Callable[..., Any], also: Callable[..., None]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        also(*args, **kwargs)
        return real(*args, **kwargs)

    return call


def _tensors(values: Any) -> list[Tensor]:
    """Those with memory of their own; a placeholder or a sharded tensor has none."""
    return [x for x in tree_leaves(values) if type(x) in (Tensor, nn.Parameter) and x.layout is torch.strided]


def _gives_views(func: Any) -> bool:
    """Views and aliases read nothing."""
    return any(of.alias_info is not None and not of.alias_info.is_write for of in func._schema.returns)


def _by_use(func: Any, args: Any, kwargs: Any) -> tuple[list[Tensor], list[Tensor]]:
    """What an operator writes and what it reads, by its schema."""
    given = {of.name: value for of, value in zip(func._schema.arguments, args)} | kwargs
    written: list[Tensor] = []
    read: list[Tensor] = []
    for of in func._schema.arguments:
        into = written if of.alias_info is not None and of.alias_info.is_write else read
        into += _tensors(given.get(of.name))
    reads_nothing = _gives_views(func) or _operator(func).startswith(SHAPES_ONLY)
    return written, [] if reads_nothing else read


def _operator(func: Any) -> str:
    return func._schema.name.partition("::")[2]
