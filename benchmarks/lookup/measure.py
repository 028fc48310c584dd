"""Measures one size: every way forward and backward, the fused update included, side by side in one run.

Legend: N events, U distinct ids, D row width.
"""

import gc
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from benchmarks.harness import Absent, Timing, measure_on_gpu, measure_side_by_side
from benchmarks.lookup.ways import PLAIN, WAYS, Size, features_of, make_step


@dataclass(frozen=True)
class Line:
    """One way on one size; `why_not` says why it is absent, and the rest is then None.

    - `wall` seconds of the host from one synchronisation to the next; `events` seconds between CUDA events
    - `extra_bytes` peak of a step beyond what stood before it
    - `same_bits` the first output is the plain one; `after_step` largest difference of the second output, that is of
      the tables after one update
    """

    size: Size
    way: str
    unique: int
    why_not: str = ""
    wall: Timing | None = None
    events: Timing | None = None
    extra_bytes: int | None = None
    same_bits: bool | None = None
    after_step: float | None = None

    @property
    def needed_bytes(self) -> int:
        """What no way can do without: U rows read; N rows written and their gradients read; U rows read and written by
        the update; an index of 4 bytes per event, forward and backward."""
        return 4 * self.size.width * (3 * self.unique + 2 * self.size.events) + 8 * self.size.events


def measure_size(size: Size, ids: Tensor, device: torch.device, *, repeats: int) -> list[Line]:
    """All ways on one stream of ids. A way that fails says so in its line and stops nobody else.

    Every way has a table of its own on the device, to be measured in turns: 5 times `rows` x D fp32 in all.
    """
    gc.collect()  # the sharded modules of the size before refer to each other, and hold its tables
    features, unique = features_of(ids, size), len(ids.unique())
    grad = torch.randn(size.events, size.width, device=device)
    found = {way: Line(size, way, unique) for way in WAYS}
    calls: dict[str, Callable[[], None]] = {}
    expected: tuple[Tensor, Tensor] | None = None
    for way in WAYS:
        try:
            look_up = make_step(way, size, features, device)
            call = _stepping(look_up, grad)
            with torch.no_grad():
                first = look_up()
            call()
            with torch.no_grad():
                second = look_up()
        except Exception as error:  # any library may fail in any way; the table says how
            kind = "" if isinstance(error, Absent) else f"{type(error).__name__}: "
            found[way] = replace(found[way], why_not=f"{kind}{error}".splitlines()[0][:100])
            continue
        expected = (first, second) if way == PLAIN else expected
        if expected is not None:
            same, apart = torch.equal(first, expected[0]), float((second - expected[1]).abs().max())
            found[way] = replace(found[way], same_bits=same, after_step=apart)
        calls[way] = call
    del expected
    for way, call in calls.items():
        found[way] = replace(found[way], extra_bytes=_extra_bytes(call) if device.type == "cuda" else None)
    for way, timings in _time(calls, device, repeats).items():
        found[way] = replace(found[way], wall=timings[0], events=timings[1])
    return list(found.values())


def _stepping(look_up: Callable[[], Tensor], grad: Tensor) -> Callable[[], None]:
    return lambda: torch.autograd.backward(look_up(), grad)


def _time(
    calls: dict[str, Callable[[], None]], device: torch.device, repeats: int
) -> dict[str, tuple[Timing, Timing | None]]:
    """The wall clock is the main number: these calls wait for the device inside, for numbers of ids, and what the host
    does until the GPU has work again costs a training step, too. Events count such gaps as well, but leave out about
    the first millisecond of the host's work, in which the GPU sleeps."""
    if device.type != "cuda":
        return {way: (wall, None) for way, wall in measure_side_by_side(calls, repeats=repeats).items()}
    waiting = {way: _waiting(call) for way, call in calls.items()}
    walls, events = measure_side_by_side(waiting, repeats=repeats, warm_up=3), measure_on_gpu(calls, repeats=repeats)
    return {way: (walls[way], events[way]) for way in calls}


def _waiting(call: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        call()
        torch.cuda.synchronize()

    return run


def _extra_bytes(call: Callable[[], None]) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return torch.cuda.max_memory_allocated() - before
