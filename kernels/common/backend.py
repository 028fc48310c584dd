"""Which implementation of an operator runs: one rule for all operators.

`auto` takes Triton where the tensors are on CUDA and Triton can take them. On a CPU it takes the operator's C++ kernel
if it has one that was built and can take them, otherwise its plain PyTorch form.
"""

import functools
import logging
from contextlib import AbstractContextManager, nullcontext
from importlib.util import find_spec
from typing import Any, Literal

import torch

HAS_TRITON = find_spec("triton") is not None
if HAS_TRITON:
    import triton

    @triton.jit
    def _kernel() -> None:
        """Loaded as every other kernel of this process is: for a GPU or for Triton's interpreter."""


Backend = Literal["auto", "triton", "native", "torch", "reference"]
_log = logging.getLogger("dist_rec.kernels")


def choose(
    operator: str,
    backend: str,
    device: torch.device,
    obstacle: str = "",
    *,
    native_obstacle: str | None = None,
    fallback: str = "torch",
) -> str:
    """The backend that runs: `triton`, `native`, `fallback` or `reference`. The choice of `auto` is logged once per
    process.

    Args:
        operator: its name, for the log.
        backend: what the caller wants: `auto`, `triton`, `native`, `fallback` or `reference`.
        device: of the inputs.
        obstacle: why Triton cannot take these inputs; empty if it can.
        native_obstacle: why the C++ kernel cannot; empty if it can, None if the operator has none.
        fallback: the operator's backend in plain PyTorch.

    Raises:
        RuntimeError: `triton` is wanted, without Triton, or without both CUDA and Triton's interpreter.
        ValueError: `triton` or `native` is wanted for inputs that it cannot take, or the backend is unknown.
    """
    if backend == "auto":
        reason = "" if device.type == "cuda" else f"inputs on {device.type}"
        reason = reason or ("" if HAS_TRITON else "Triton is not installed") or obstacle
        if not reason:
            backend, reason = "triton", "inputs on CUDA"
        elif device.type == "cpu" and native_obstacle == "":
            backend = "native"
        else:
            backend, reason = fallback, f"{reason}; {native_obstacle}" if native_obstacle else reason
        _log_choice(operator, backend, reason)
    elif backend == "triton":
        if not HAS_TRITON:
            raise RuntimeError("backend='triton' needs Triton; it is not installed")
        if obstacle:
            raise ValueError(f"backend='triton' cannot run: {obstacle}")
        if device.type != "cuda" and not is_interpreted():
            raise RuntimeError(
                f"backend='triton' needs CUDA tensors, got {device.type}; the CPU has only Triton's interpreter"
            )
    elif backend == "native" and native_obstacle is not None:
        if native_obstacle:
            raise ValueError(f"backend='native' cannot run: {native_obstacle}")
    elif backend not in (fallback, "reference"):
        names = ("auto", "triton", *(() if native_obstacle is None else ("native",)), fallback, "reference")
        raise ValueError(f"backend must be one of {', '.join(names)}, got {backend!r}")
    return backend


def is_interpreted() -> bool:
    """Whether the kernels were loaded for Triton's interpreter (TRITON_INTERPRET=1 at import)."""
    if not HAS_TRITON:
        return False
    from triton import JITFunction

    return not isinstance(_kernel, JITFunction)


def on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device, which need not be that of the inputs."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()


def _log_choice(operator: str, backend: str, reason: str) -> None:
    """Silent while torch.compile traces, where a log call would break the graph."""
    if not torch.compiler.is_compiling():
        _log_once(operator, backend, reason)


@functools.cache
def _log_once(operator: str, backend: str, reason: str) -> None:
    _log.info("%s: %s (%s)", operator, backend, reason)
