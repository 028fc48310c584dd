"""The smallest Triton kernel adds two vectors, on the GPU or, with TRITON_INTERPRET=1, under the interpreter."""

# Triton reads annotations as code, hence for its kernels:
# pyright: reportMissingParameterType=false

import torch
import triton
import triton.language as tl

BLOCK = 64


@triton.jit
def _add(x, y, out, n, BLOCK: tl.constexpr) -> None:
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < n) + tl.load(y + at, at < n), at < n)


def add_works(device: str) -> None:
    """Raises if the kernel cannot run or is wrong."""
    n = 1000
    x, y = torch.arange(n, dtype=torch.float32, device=device), torch.ones(n, device=device)
    out = torch.empty_like(x)
    _add[(triton.cdiv(n, BLOCK),)](x, y, out, n, BLOCK)  # pyright: ignore[reportArgumentType] - triton makes the constexpr
    if not torch.equal(out, x + y):
        raise RuntimeError("Triton ran, but adding two vectors gave wrong numbers")
