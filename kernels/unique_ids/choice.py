"""Which implementation runs, by one rule for the operators on unique rows: Triton where the tensors are on CUDA, else torch."""

from importlib.util import find_spec
from typing import Literal

import torch

from dist_rec.kernels.common.backend import log_choice

Backend = Literal["auto", "triton", "torch", "reference"]
HAS_TRITON = find_spec("triton") is not None


def choose(
    operator: str, backend: Backend, device: torch.device, obstacle: str = ""
) -> Literal["triton", "torch", "reference"]:
    """The backend that runs.

    Args:
        obstacle: why Triton cannot take these inputs on any device; empty if it can.

    Raises:
        RuntimeError: `triton` was asked for where there is neither CUDA nor Triton's interpreter.
        ValueError: `triton` was asked for with inputs that it cannot take, or the backend is unknown.
    """
    if backend == "auto":
        reason = obstacle or ("" if device.type == "cuda" else f"inputs on {device.type}")
        reason = reason or ("" if HAS_TRITON else "Triton is not installed")
        backend = "torch" if reason else "triton"
        log_choice(operator, backend, reason or "inputs on CUDA")
        return backend
    if backend == "triton":
        if not HAS_TRITON:
            raise RuntimeError("backend='triton' needs Triton; it is not installed")
        if obstacle:
            raise ValueError(f"backend='triton' cannot run: {obstacle}")
        if device.type != "cuda" and not is_interpreted():
            raise RuntimeError(f"backend='triton' needs CUDA tensors, got {device.type}; the CPU has only Triton's interpreter")
    elif backend not in ("torch", "reference"):
        raise ValueError(f"backend must be one of auto, triton, torch, reference, got {backend!r}")
    return backend


def is_interpreted() -> bool:
    """Whether the kernels were loaded for Triton's interpreter (TRITON_INTERPRET=1 at import)."""
    import triton

    from dist_rec.kernels.unique_ids.bits import read_index

    return not isinstance(read_index, triton.JITFunction)
