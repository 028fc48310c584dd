"""How far a call raises the highest memory: of the GPU, or without one the resident memory of this process (Linux;
elsewhere nothing is known)."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import torch

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5), clear_refs: the peak becomes the present size


def growth(call: Callable[[], object]) -> float | None:
    """Bytes by which memory rose at most during `call`, as torch allocates it on a GPU; None where the system does not
    say.

    Memory of the process that was freed before goes back to the system first: it would be used again unseen."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return float(torch.cuda.max_memory_allocated() - before)
    try:
        _give_back()
        CLEAR.write_text(RESET_PEAK)
        before = _kilobytes("VmRSS")
        call()
        return 1024.0 * (_kilobytes("VmHWM") - before)
    except OSError:
        return None


def _kilobytes(name: str) -> int:
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1])


def _give_back() -> None:
    """Raises OSError where the C library is not glibc."""
    gc.collect()
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    except AttributeError as error:
        raise OSError("no malloc_trim in this C library") from error
