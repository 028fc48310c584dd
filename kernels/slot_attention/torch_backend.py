"""Torch's own attention with one sequence per group, which is quick on a CPU. On a GPU plain maths: what torch chooses
there plans anew for every number of sequences, and some versions of it fail above 65,535."""

from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dist_rec.kernels.slot_attention.reference import reference_slot_attention


def torch_slot_attention(qkv: Tensor, real: Tensor) -> Tensor:
    """(M, K, 3, H, D) and (M, K) bool -> (M, K, H, D)"""
    if qkv.device.type != "cpu":
        return reference_slot_attention(qkv, real)
    q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
    empty = ~real.any(1, keepdim=True)
    if not empty.any():
        return scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None, :]).transpose(1, 2)
    # A softmax over nothing is not defined: these groups attend to all, and become zero afterwards.
    attended = scaled_dot_product_attention(q, k, v, attn_mask=(real | empty)[:, None, None, :])
    return attended.transpose(1, 2).masked_fill(empty[:, :, None, None], 0.0)
