"""Linear layers over rows whose number is another one in every batch.

For a product of a shape that it has not seen cuBLAS looks for a kernel, which costs the host five to ten times what the
launch does, and a jagged batch brings new shapes to every product of every step. On a GPU rows are therefore rounded up
to one of eight numbers per octave, which have all been seen after some steps. The rows behind are zeros: they add
nothing to a gradient, and what comes of them is cut off.

Legend: N rows, R rows after rounding.
"""

# torch's stub gives `backward` any number of gradients.
# pyright: reportIncompatibleMethodOverride=false

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from dist_rec.kernels.common.eager import is_eager

FEWEST = 64  # rows that are added at least; also what few rows are rounded to
_zeros: dict[tuple[torch.device, torch.dtype, int], Tensor] = {}


class Linear(nn.Linear):
    """`nn.Linear` by `linear`, with the same parameters."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`: x (..., in), weight (out, in), bias (out,) -> (..., out), differentiable once where
    rows are rounded."""
    if not (is_eager(x, weight) and has_new_shapes(x) and x.dim() > 1):
        return functional.linear(x, weight, bias)
    rows = x.flatten(0, -2)
    if rounded(len(rows)) == len(rows):
        return functional.linear(x, weight, bias)
    found = _RoundedLinear.apply(*_as_autocast(rows, weight, bias))
    return found if x.dim() == 2 else found.view(*x.shape[:-1], -1)  # pyright: ignore


def has_new_shapes(x: Tensor) -> bool:
    """Whether a product of rows x depends on how many they are."""
    return x.is_cuda


def rounded(rows: int) -> int:
    """R, at most an eighth above N or the next multiple of `FEWEST`; 0 of none."""
    return -(-rows // _step(rows)) * _step(rows)


def _step(rows: int) -> int:
    """What R is a multiple of."""
    return max(FEWEST, (1 << rows.bit_length()) // 16)


def _as_autocast(*tensors: Tensor | None) -> list[Tensor | None]:
    """In the dtype that autocast would choose for `functional.linear`."""
    (device,) = {of.device.type for of in tensors if of is not None}
    if not torch.is_autocast_enabled(device):
        return [*tensors]
    dtype = torch.get_autocast_dtype(device)
    return [of if of is None or of.dtype == torch.float64 else of.to(dtype) for of in tensors]


class _RoundedLinear(torch.autograd.Function):
    """x (N, in), weight (out, in), bias (out,) or None -> (N, out)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        whole = _with_zeros(x)
        ctx.save_for_backward(whole, weight)
        out = whole @ weight.T if bias is None else torch.addmm(bias, whole, weight.T)
        return out[: len(x)].detach()  # autograd lets nobody write to a view that a function has made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        whole, weight = ctx.saved_tensors
        of_x, of_weight, of_bias = ctx.needs_input_grad
        grads = _with_zeros(grad)
        return (
            (grads @ weight)[: len(grad)] if of_x else None,
            grads.T @ whole if of_weight else None,
            grad.sum(0) if of_bias else None,
        )


def _with_zeros(x: Tensor) -> Tensor:
    """(N, D) -> (R, D)."""
    return torch.cat([x, _zero_rows(x)])


def _zero_rows(x: Tensor) -> Tensor:
    """(R - N, D), of a block that is kept, as long as any up to the next octave: filling a new one would be a launch
    more."""
    key, missing = (x.device, x.dtype, x.shape[1]), rounded(len(x)) - len(x)
    if len(_zeros.get(key, ())) < missing:
        _zeros[key] = x.new_zeros(_step(len(x)), x.shape[1])
    return _zeros[key][:missing]
