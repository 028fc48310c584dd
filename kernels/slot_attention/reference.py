"""The definition in plain PyTorch, in any float type up to float64; its gradient is autograd's.

Legend: M groups, K slots, H heads, D head size. fp16 and bf16 are computed in fp32 and rounded once at the end.
"""

import torch
from torch import Tensor


def reference_slot_attention(qkv: Tensor, real: Tensor) -> Tensor:
    q, k, v = qkv.to(torch.promote_types(qkv.dtype, torch.float32)).unbind(2)
    hidden = ~real[:, None, None, :]
    scores = torch.einsum("mihd,mjhd->mhij", q, k) * q.shape[-1] ** -0.5
    # A group without a real slot: finite scores keep softmax and its gradient free of NaN, then the weights become 0.
    scores = scores.masked_fill(hidden & real.any(1)[:, None, None, None], float("-inf"))
    weights = scores.softmax(-1).masked_fill(hidden, 0.0)
    return torch.einsum("mhij,mjhd->mihd", weights, v).to(qkv.dtype)
