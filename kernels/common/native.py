"""The kernels of a CPU, in C++ (kernels/native): built by setup.py where there is a compiler, once per instruction set.

They read addresses: who calls them has checked shapes, dtypes and devices, and made things contiguous.
"""

import functools
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.eager import is_eager

_VARIANTS = {"AVX512": "_native_avx512", "AVX2": "_native_avx2"}


@functools.cache
def built() -> ModuleType | None:
    """The module for this CPU's instruction set; None if it was not built."""
    name = _VARIANTS.get(torch.backends.cpu.get_cpu_capability(), "_native_default")
    try:
        return import_module(f"dist_rec.kernels.native.{name}")
    except ImportError:
        return None


def native_kernels() -> ModuleType:
    """`built()`, where `why_not_native` has found no obstacle."""
    module = built()
    assert module is not None, "the caller asks why_not_native first"
    return module


def why_not_native(*tensors: Tensor, dtypes: tuple[torch.dtype, ...] = (torch.float32,)) -> str:
    """Why the C++ kernels cannot take these; empty if they can."""
    watched = "a compiler, a mode or a transform looks at the operators of this call"
    if torch.compiler.is_compiling():
        return watched
    if built() is None:
        return "the C++ kernels were not built"
    for x in tensors:
        if x.dtype not in dtypes or x.device.type != "cpu":
            wanted = " or ".join(str(dtype) for dtype in dtypes)
            return f"the C++ kernel takes {wanted} on cpu, got {x.dtype} on {x.device.type}"
    return "" if is_eager(*tensors) else watched


def differentiated_once(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A `backward` that refuses to become part of a graph itself. torch's `once_differentiable` does so only where the
    incoming gradient needs one, and else the result is a constant without a word."""

    @functools.wraps(backward)
    def refuse(ctx: Any, *grads: Tensor) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError("the C++ kernels have no second derivative: expected create_graph=False, got True")
        return backward(ctx, *grads)

    return refuse


def address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def index(x: Tensor | None) -> tuple[int, int]:
    """Address of contiguous integers, and whether they have 64 bits."""
    return (0, 0) if x is None else (x.data_ptr(), int(x.dtype == torch.int64))
