"""Which accesses of memory nothing orders: vector clocks of lanes, and what every lane did with every storage.

An access is ordered after another if its lane has waited, through any chain of waits, for the earlier one.

- A read has to be ordered after the last write; a write after the last write and all reads since.
- Memory that is freed goes back to the lane that allocated it. All accesses by other lanes have to be ordered before
  what that lane launches next, or be covered by a lane that was recorded (torch.cuda's caching allocator).
- Work that the host launches is ordered after what the host has waited for.
"""

import ast
import functools
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef

Clock = dict[str, int]  # lane -> the last piece of its work that is known to be done
WAITS = ("wait_stream", "wait_event", "synchronize", "record_stream")
PLACES = (f"{os.sep}dist_rec{os.sep}", f"{os.sep}torchrec{os.sep}", f"{os.sep}tests{os.sep}")
HELPERS = f"tests{os.sep}helpers{os.sep}streams.py"
SWEEP_EVERY = 2000  # pieces of work, between two looks for memory that is gone and was never shared


class Lane:
    """Work that runs in order: a stream, the collectives of a group, or the host."""

    def __init__(self, name: str) -> None:
        self.name, self.clock = name, {name: 0}

    def after(self, clock: Clock) -> None:
        for name, time in clock.items():
            self.clock[name] = max(self.clock.get(name, 0), time)

    def knows(self, access: "Access") -> bool:
        return self.clock.get(access.lane, 0) >= access.time


@dataclass(frozen=True)
class Access:
    lane: str
    time: int
    what: str  # operator and place in the program


@dataclass
class Memory:
    """One storage. `owner`: the lane that allocated it; None for memory of the host."""

    ref: StorageWeakRef
    owner: Lane | None
    recorded: list[Lane] = field(default_factory=list)
    write: Access | None = None
    reads: dict[str, Access] = field(default_factory=dict)  # by lane, since the last write

    def accesses(self) -> list[Access]:
        return [*([self.write] if self.write else []), *self.reads.values()]


class Ledger:
    """Of every storage, who accessed it last and what was not ordered.

    Attributes:
        races: what is not ordered, in words; empty if all is well.
    """

    def __init__(self, host: Lane) -> None:
        self.host = host
        self.races: dict[str, None] = {}
        self._memory: dict[int, Memory] = {}
        self._shared: set[int] = set()  # keys of `_memory` that a lane other than the owner has accessed
        self._pieces = 0

    def start(self, lane: Lane) -> None:
        """A piece of work, launched by the host."""
        self._pieces += 1
        lane.after(self.host.clock)
        lane.clock[lane.name] += 1

    def read(self, tensor: Tensor, lane: Lane, name: str) -> None:
        memory = self.of(tensor)
        access = self._access(memory, lane, name)
        self._expect(lane, access, "reads", [memory.write] if memory.write else [])
        memory.reads[lane.name] = access

    def write(self, tensor: Tensor, lane: Lane, name: str) -> None:
        memory = self.of(tensor)
        access = self._access(memory, lane, name)
        self._expect(lane, access, "writes", memory.accesses())
        memory.write, memory.reads = access, {}

    def _access(self, memory: Memory, lane: Lane, name: str) -> Access:
        if memory.owner is not None and lane is not memory.owner:
            self._shared.add(memory.ref.cdata)
        return Access(lane.name, lane.clock[lane.name], f"{name} at {place()}")

    def _expect(self, lane: Lane, access: Access, does: str, before: list[Access]) -> None:
        for other in before:
            if other.lane != lane.name and not lane.knows(other):
                told = f"{access.lane} {does} ({access.what}) what {other.lane} may still use ({other.what})"
                self.races[told] = None

    def find(self, tensor: Tensor) -> Memory | None:
        return self._memory.get(tensor.untyped_storage()._cdata)

    def of(self, tensor: Tensor) -> Memory:
        memory = self.find(tensor)
        assert memory is not None, "allocated"
        return memory

    def allocate(self, tensor: Tensor, owner: Lane | None) -> Memory:
        memory = Memory(StorageWeakRef(tensor.untyped_storage()), owner)
        self._memory[memory.ref.cdata] = memory
        return memory

    def free(self) -> None:
        """Looks at memory that is gone since the last call."""
        for key in [key for key in self._shared if self._memory[key].ref.expired()]:
            self._shared.remove(key)
            self._freed(self._memory.pop(key))
        if self._pieces >= SWEEP_EVERY:
            self._pieces = 0
            for key in [key for key, memory in self._memory.items() if memory.ref.expired()]:
                del self._memory[key]

    def _freed(self, memory: Memory) -> None:
        assert memory.owner is not None, "shared"
        covering = [memory.owner, self.host, *memory.recorded]
        for access in memory.accesses():
            if access.lane != memory.owner.name and not any(lane.knows(access) for lane in covering):
                told = f"freed on {memory.owner.name} while {access.lane} may still use it ({access.what})"
                self.races[told] = None


def waits_in(*files: Path) -> set[str]:
    """Every call in these files that orders streams or keeps memory for one, in the form of `Streams.waits`."""
    found: set[str] = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr in WAITS and ast.unparse(called.value) != "super()":
                found.add(f"{called.attr} at {_short(str(file))}:{called.lineno}")
    return found


def place(but: str = "outside") -> str:
    """File and line in dist_rec, TorchRec or a test that is running."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        name = _short(frame.f_code.co_filename)
        if name and but not in name:
            return f"{name}:{frame.f_lineno}"
        frame = frame.f_back
    return "torch"


@functools.cache
def _short(file: str) -> str:
    """From the folder of the project or package on; empty for other files."""
    at = max(file.rfind(place) for place in PLACES)
    return "" if at < 0 or file == __file__ or file.endswith(HELPERS) else file[at + 1 :]
