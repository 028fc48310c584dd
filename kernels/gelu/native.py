"""The GELU on a CPU in C++, fp32."""

# torch's stub gives `backward` any number of gradients.
# pyright: reportIncompatibleMethodOverride=false

from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.native import address, differentiated_once, run


def native_gelu(x: Tensor) -> Tensor:
    """See `gelu`."""
    return _Gelu.apply(x.contiguous())  # pyright: ignore[reportReturnType]


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _run(x, None)

    @staticmethod
    @differentiated_once
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return _run(x, grad.contiguous())


def _run(x: Tensor, grad: Tensor | None) -> Tensor:
    out = torch.empty_like(x)
    arguments = torch.get_num_threads(), x.numel(), x.data_ptr(), address(grad), out.data_ptr()
    run("gelu", arguments, of="gelu" if grad is None else "gelu_backward", touched=(x, grad, out))
    return out
