"""Timing for every benchmark."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch


class Absent(Exception):
    """A peer that this machine, this case or an installed version cannot have; the text says why."""


@dataclass(frozen=True)
class Timing:
    """Seconds per call: 20th, 50th and 80th percentile."""

    p20: float
    p50: float
    p80: float

    def __str__(self) -> str:
        return f"{1e3 * self.p20:.1f} / {1e3 * self.p50:.1f} / {1e3 * self.p80:.1f}"


def measure_side_by_side(
    calls: dict[str, Callable[[], object]], *, repeats: int, warm_up: int = 2
) -> dict[str, Timing]:
    """Times several calls in turns, so that whatever disturbs the machine disturbs all of them."""
    for _ in range(warm_up):
        for call in calls.values():
            call()
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: Timing(*np.percentile(times, [20, 50, 80])) for name, times in seconds.items()}


def measure_on_gpu(calls: dict[str, Callable[[], object]], *, repeats: int, warm_up: int = 3) -> dict[str, Timing]:
    """Times several calls in turns with CUDA events: kernels only, from a cold L2 cache.

    Before each call the cache is overwritten and the GPU put to sleep for about a millisecond, in which the host
    launches the call: its launch overhead is then not in the time, as it is not in a training step that runs ahead."""
    for _ in range(warm_up):
        for call in calls.values():
            call()
    scratch = torch.empty(256 * 2**20, dtype=torch.uint8, device="cuda")
    events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            scratch.zero_()
            torch.cuda._sleep(2_000_000)  # cycles
            start.record()
            call()
            end.record()
            events[name].append((start, end))
            torch.cuda.synchronize()
    seconds = {name: [start.elapsed_time(end) / 1e3 for start, end in pairs] for name, pairs in events.items()}
    return {name: Timing(*np.percentile(times, [20, 50, 80])) for name, times in seconds.items()}


def hardware() -> str:
    """A short name for file names: the GPU's, or cpu."""
    if not torch.cuda.is_available():
        return "cpu"
    return torch.cuda.get_device_name().lower().replace("nvidia ", "").split()[0]
