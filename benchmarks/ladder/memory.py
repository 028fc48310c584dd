"""The highest resident memory of this process, and how far a call raises it. Linux; elsewhere nothing is known."""

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
RESET_PEAK = "5"  # proc(5), clear_refs: the peak becomes the present size


def growth(call: Callable[[], object]) -> float | None:
    """Bytes by which resident memory rose at most during `call`; None where the system does not say.

    Memory that was freed before goes back to the system first: it would be used again unseen."""
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
