"""Memory of a step on a CPU, kept from step to step."""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h), and its largest threshold.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _LARGEST = -1, -3, 32 * 2**20


def keep_freed_memory() -> bool:
    """Has the C library keep what is freed for the next allocations, and says whether it does (glibc only).

    By default a tensor of some MB goes back to the kernel when it is freed; the next one is mapped anew and filled
    with zeros page by page, which takes a fifth of a step with long histories. The process keeps the peak of a step,
    which it needs again in the next.
    """
    if sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"):
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_TRIM_THRESHOLD, 2**31 - 1))
