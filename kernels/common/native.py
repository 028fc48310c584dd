"""The kernels of a CPU, in C++ (kernels/native): built by setup.py where there is a compiler, once per instruction set.

They read addresses: who calls them has checked shapes, dtypes and devices, and made things contiguous.
"""

import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.eager import is_eager

INTERFACE = 1  # the order of arguments; changes together with kernels/native/_native.cpp
_VARIANTS = {"AVX512": ("avx512", "avx2", "default"), "AVX2": ("avx2", "default")}
_WATCHED = "a compiler, a mode, a trace or a transform looks at the operators of this call"

_log = logging.getLogger("dist_rec.kernels")


@functools.cache
def built() -> ModuleType | None:
    """The module for the best instruction set of this CPU; None if none was built for it, or from other sources."""
    for variant in _VARIANTS.get(torch.backends.cpu.get_cpu_capability(), ("default",)):
        name = f"dist_rec.kernels.native._native_{variant}"
        try:
            module = import_module(name)
        except ModuleNotFoundError:
            continue
        except ImportError as error:
            _log.warning("%s cannot be loaded: %s; expected one that is built for this Python", name, error)
            continue
        if getattr(module, "INTERFACE", None) == INTERFACE:
            return module
        _log.warning("%s was built from other sources and is left out; install dist_rec again", name)
    return None


def native_kernels() -> ModuleType:
    """`built()`, where `why_not_native` has found no obstacle."""
    module = built()
    assert module is not None, "the caller asks why_not_native first"
    return module


Tell = Callable[[str, Sequence[Tensor], int], None]
_told: list[Tell] = []


def run(
    name: str, arguments: Sequence[int | float], *, of: str, touched: Sequence[Tensor | None], flops: int = 0
) -> Any:
    """Calls a C++ kernel. Who counts work is told the operator's name `of`, what it reads, then writes, and FLOPs."""
    found = getattr(native_kernels(), name)(*arguments)
    for tell in _told:
        tell(of, [x for x in touched if x is not None], flops)
    return found


@contextmanager
def told_of_calls(tell: Tell) -> Iterator[None]:
    """Inside, `tell(name, tensors, flops)` hears of every call of a C++ kernel. Modes do not see such a call, and
    elsewhere the kernels are not taken under them; here they are."""
    _told.append(tell)
    try:
        yield
    finally:
        _told.remove(tell)


def why_not_native(
    *tensors: Tensor, others: Sequence[Tensor | None] = (), dtypes: tuple[torch.dtype, ...] = (torch.float32,)
) -> str:
    """Why the C++ kernels cannot take `tensors`, which must have one of the dtypes, and `others`; empty if they can."""
    if torch.compiler.is_compiling():
        return _WATCHED
    if built() is None:
        return "the C++ kernels were not built"
    for x in tensors:
        if x.dtype not in dtypes or x.device.type != "cpu":
            wanted = " or ".join(str(dtype) for dtype in dtypes)
            return f"the C++ kernel takes {wanted} on cpu, got {x.dtype} on {x.device.type}"
        if x.is_neg():
            return "the C++ kernel reads memory, and a negated view has other values"
    eager = is_eager(*tensors, *(x for x in others if x is not None), modes=bool(_told))
    return "" if eager else _WATCHED


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
