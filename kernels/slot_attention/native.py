"""The attention of slots on a CPU in C++, fp32: group by group, with nothing kept for the backward but the inputs.

Legend: M groups, K slots, H heads, D head size.
"""

# torch's stub gives `backward` any number of gradients.
# pyright: reportIncompatibleMethodOverride=false

from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.native import differentiated_once, run


def native_slot_attention(qkv: Tensor, real: Tensor) -> Tensor:
    """(M, K, 3, H, D) and (M, K) bool -> (M, K, H, D)"""
    return _SlotAttention.apply(qkv.contiguous(), real.contiguous())  # pyright: ignore[reportReturnType]


class _SlotAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, real: Tensor) -> Tensor:
        ctx.save_for_backward(qkv, real)
        out = qkv.new_zeros(*qkv.shape[:2], *qkv.shape[3:])
        run("attend_slots", (*_call(qkv, real), out.data_ptr()), of="slot_attention", touched=(qkv, real, out))
        return out

    @staticmethod
    @differentiated_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        qkv, real = ctx.saved_tensors
        out, grad = torch.zeros_like(qkv), grad.contiguous()
        arguments = *_call(qkv, real), grad.data_ptr(), out.data_ptr()
        run("attend_slots_backward", arguments, of="slot_attention_backward", touched=(qkv, real, grad, out))
        return out, None


def _call(qkv: Tensor, real: Tensor) -> tuple[int | float, ...]:
    """The arguments that both passes share, in the order of `read_slots` (kernels/native/_native.cpp)."""
    groups, slots, _, heads, size = qkv.shape
    return torch.get_num_threads(), groups, slots, heads, size, qkv.data_ptr(), real.data_ptr(), size**-0.5
