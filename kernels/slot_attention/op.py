"""The kernels in PyTorch: custom ops with fake forms and an autograd formula, and the launches behind them.

Legend: M groups, K slots, H heads, D head size.
"""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.common.eager import function_of, is_eager, is_eager_backward
from dist_rec.kernels.common.launch import cdiv, launch
from dist_rec.kernels.slot_attention.kernels import attend_slots, attend_slots_backward, slot_deltas

TILE = 1024  # elements of a tile of rows; the backward holds eleven such tiles in registers
WARPS = 4


def triton_slot_attention(qkv: Tensor, real: Tensor) -> Tensor:
    run = _eager if is_eager(qkv) else attend
    return run(qkv.contiguous(), real.contiguous())[0]


def _attend(qkv: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Output (M, K, H, D) like qkv, and the logarithm of each row's sum (M, K, H) fp32."""
    out, log_sum = _outputs(qkv)
    if out.numel():
        _launch(attend_slots, qkv, real, OUT=out, LOG_SUM=log_sum)
    return out, log_sum


attend = torch.library.custom_op("dist_rec::slot_attention", _attend, mutates_args=())


@attend.register_fake
def _(qkv: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    return _outputs(qkv)


def _attend_backward(grad: Tensor, qkv: Tensor, real: Tensor, log_sum: Tensor) -> Tensor:
    """(M, K, 3, H, D) like qkv"""
    grad, out, delta = grad.contiguous(), torch.empty_like(qkv), torch.empty_like(log_sum)
    if out.numel():
        _launch(slot_deltas, qkv, real, LOG_SUM=log_sum, GRAD=grad, DELTA=delta)
        _launch(attend_slots_backward, qkv, real, LOG_SUM=log_sum, DELTA=delta, GRAD=grad, GRAD_QKV=out)
    return out


attend_backward = torch.library.custom_op("dist_rec::slot_attention_backward", _attend_backward, mutates_args=())


@attend_backward.register_fake
def _(grad: Tensor, qkv: Tensor, real: Tensor, log_sum: Tensor) -> Tensor:
    return torch.empty_like(qkv)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.set_materialize_grads(False)  # the sums never get one


def _backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, None]:
    if grad is None:
        return None, None
    run = _attend_backward if is_eager_backward(grad) else attend_backward
    return run(grad, *ctx.saved_tensors), None


attend.register_autograd(_backward, setup_context=_keep)
_eager = function_of(_attend, _keep, _backward)


def _outputs(qkv: Tensor) -> tuple[Tensor, Tensor]:
    groups, slots, _, heads, size = qkv.shape
    return qkv.new_empty(groups, slots, heads, size), qkv.new_empty(groups, slots, heads, dtype=torch.float32)


def _launch(kernel: Any, qkv: Tensor, real: Tensor, **tensors: Tensor) -> None:
    groups, slots, _, heads, size = qkv.shape
    tile = tile_of(size)
    with on(qkv.device):
        launch(
            kernel,
            (cdiv(groups * slots, tile["BR"]), heads),
            QKV=qkv,
            REAL=real,
            num_rows=groups * slots,
            scale=size**-0.5,
            K=slots,
            H=heads,
            D=size,
            num_warps=WARPS,
            **tensors,
            **tile,
        )


def tile_of(size: int) -> dict[str, int]:
    """Rows and padded head of a tile, for heads of this size."""
    head = max(1 << (size - 1).bit_length(), 4)
    return {"HEAD": head, "BR": min(TILE // head, 128)}
