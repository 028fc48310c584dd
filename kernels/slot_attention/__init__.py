"""Attention among the few slots of a group, for a great many groups.

Legend: M groups, K slots of each, H heads, D head size.
"""

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import HAS_TRITON, Backend, choose
from dist_rec.kernels.common.native import why_not_native
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.slot_attention.native import native_slot_attention
from dist_rec.kernels.slot_attention.reference import reference_slot_attention
from dist_rec.kernels.slot_attention.torch_backend import torch_slot_attention

if HAS_TRITON:
    from dist_rec.kernels.slot_attention.op import triton_slot_attention
else:
    triton_slot_attention = None

__all__ = ["slot_attention"]

MOST_SLOTS, WIDEST_HEAD = 16, 128  # of the kernel: every pair of slots is a pass over the head, in registers
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@traceable
def slot_attention(qkv: Tensor, real: Tensor, *, backend: Backend = "auto") -> Tensor:
    """`softmax(q k^T / sqrt(D)) v` of the slots of each group over its real slots; zeros where no slot is real.

    A general attention kernel takes a group for a sequence, and most of them limit the number of sequences or plan
    anew for each number; here the group is part of a row's place.

    Args:
        qkv: (M, K, 3, H, D) float.
        real: (M, K) bool, the slots that are attended to.
        backend: `triton` (fp32, fp16, bf16; K up to 16, D up to 128); `native` is the kernel of a CPU, in C++ (fp32; K
            up to 16); `torch` is torch's own attention on a CPU; `reference` is plain maths. `auto` takes `triton` on
            CUDA and `native` on a CPU where they can, else `torch`.

    Returns:
        (M, K, H, D) like qkv. Bytes moved: qkv once and the result; backward the same again, and the gradients.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: `backend="triton"` where there is neither a CUDA device nor Triton's interpreter.
    """
    if qkv.dim() != 5 or qkv.shape[2] != 3 or not qkv.is_floating_point():
        raise ValueError(f"qkv must be (M, K, 3, H, D) of a floating dtype, got {tuple(qkv.shape)} {qkv.dtype}")
    if real.shape != qkv.shape[:2] or real.dtype != torch.bool:
        raise ValueError(f"real must be {tuple(qkv.shape[:2])} bool, got {tuple(real.shape)} {real.dtype}")
    if real.device != qkv.device:
        raise ValueError(f"real must be on the device of qkv, {qkv.device}, got {real.device}")
    chosen = choose(
        "slot_attention", backend, qkv.device, _why_not_triton(qkv), native_obstacle=_why_not_native(qkv, real)
    )
    if chosen == "native":
        return native_slot_attention(qkv, real)
    if chosen == "triton":
        assert triton_slot_attention is not None
        return triton_slot_attention(qkv, real)
    return torch_slot_attention(qkv, real) if chosen == "torch" else reference_slot_attention(qkv, real)


def _why_not_triton(qkv: Tensor) -> str:
    if qkv.dtype not in TRITON_DTYPES:
        return f"the kernels take fp32, fp16 and bf16, got {qkv.dtype}"
    if qkv.shape[1] > MOST_SLOTS or qkv.shape[4] > WIDEST_HEAD:
        return (
            f"the kernels take up to {MOST_SLOTS} slots and heads of {WIDEST_HEAD}, got {qkv.shape[1]}, {qkv.shape[4]}"
        )
    return ""


def _why_not_native(qkv: Tensor, real: Tensor) -> str:
    if qkv.shape[1] > MOST_SLOTS:
        return f"the C++ kernel takes at most {MOST_SLOTS} slots, got {qkv.shape[1]}"
    return why_not_native(qkv, others=(real,))
