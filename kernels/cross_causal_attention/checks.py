"""What `cross_causal_attention` refuses, and what its fused kernel can take. Nothing here reads a value from a GPU."""

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import is_interpreted
from dist_rec.kernels.common.offsets import check_offsets, readable
from dist_rec.kernels.cross_causal_attention.mask import Mask

LARGEST_HEAD = 256
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_inputs(
    q: Tensor, k: Tensor, v: Tensor | None, q_offsets: Tensor, kv_offsets: Tensor, mask: Mask, scale: float | None
) -> None:
    """Raises ValueError where shapes, dtypes, devices or options do not fit together."""
    shapes = f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {None if v is None else tuple(v.shape)}"
    if v is None:
        if k.dim() != 3 or k.shape[1] % 2:
            raise ValueError(f"without v, expected k (sum_kv, 2 H_kv, D) that holds both, {shapes}")
        k, v = k.chunk(2, dim=1)
    if q.dim() != 3 or k.dim() != 3 or k.shape != v.shape or q.shape[2] != k.shape[2]:
        raise ValueError(f"expected q (sum_q, H, D) and k, v (sum_kv, H_kv, D), {shapes}")
    if k.shape[1] == 0 or q.shape[1] % k.shape[1]:
        raise ValueError(f"the key-value heads must divide the query heads, {shapes}")
    if not (q.dtype == k.dtype == v.dtype and q.is_floating_point()):
        raise ValueError(f"q, k and v must share one floating dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if not (isinstance(q_offsets, Tensor) and isinstance(kv_offsets, Tensor)):
        kinds = f"{type(q_offsets).__name__}, {type(kv_offsets).__name__}"
        raise ValueError(f"q_offsets and kv_offsets must be tensors (B + 1,), got {kinds}")
    if q_offsets.dim() != 1 or q_offsets.shape != kv_offsets.shape or q_offsets.shape[0] < 1:
        raise ValueError(
            f"q_offsets and kv_offsets must both be (B + 1,), got {tuple(q_offsets.shape)}, {tuple(kv_offsets.shape)}"
        )
    expected = {
        "num_candidates": (mask.num_candidates, q_offsets.shape[0] - 1),
        "q_positions": (mask.q_positions, q.shape[0]),
        "key_valid": (mask.key_valid, k.shape[0]),
    }
    for name, (tensor, size) in expected.items():
        if tensor is not None and tuple(tensor.shape) != (size,):
            raise ValueError(f"{name} must have shape ({size},), got {tuple(tensor.shape)}")
    if mask.key_valid is not None and mask.key_valid.dtype != torch.bool:
        raise ValueError(f"key_valid must be bool, got {mask.key_valid.dtype}")
    integers = (q_offsets, kv_offsets, mask.num_candidates, mask.prefix_len, mask.q_positions)
    if any(t is not None and t.dtype not in (torch.int32, torch.int64) for t in integers):
        raise ValueError("offsets, num_candidates, prefix_len and q_positions must be int32 or int64")
    if any(t is not None and t.device != q.device for t in (k, v, *integers, mask.key_valid)):
        raise ValueError(f"all tensors must be on the device of q, {q.device}")
    if not mask.causal and (mask.num_candidates is not None or mask.q_positions is not None):
        raise ValueError(
            "causal=False lets every row attend to every key; num_candidates and q_positions have no meaning with it"
        )
    if mask.prefix_len is not None and mask.num_candidates is None:
        raise ValueError("prefix_len needs num_candidates, to know which rows belong to which candidate")
    if mask.group_size < 1:
        raise ValueError(f"group_size must be at least 1, got {mask.group_size}")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")


@torch.compiler.disable
def check_values(sum_q: int, sum_kv: int, q_offsets: Tensor, kv_offsets: Tensor, mask: Mask) -> None:
    """Checks values in host memory only. Raises ValueError for offsets that are no prefix sums and for more candidates
    than rows. Also runs where the rest is compiled: the CPU's backends read offsets anyway."""
    counts, prefix_len, positions = mask.num_candidates, mask.prefix_len, mask.q_positions
    if not readable(q_offsets, kv_offsets, counts, prefix_len, positions):
        return
    check_offsets("q_offsets", q_offsets, sum_q, padded=True)
    check_offsets("kv_offsets", kv_offsets, sum_kv, padded=True)
    rows = kv_offsets.diff()
    if positions is not None:
        _check_positions(positions, rows.repeat_interleave(q_offsets.diff()))
    if counts is None:
        return
    wrong = (counts < 0) | (counts * mask.group_size > rows)
    if bool(wrong.any()):
        request = int(wrong.nonzero()[0])
        raise ValueError(
            f"num_candidates: request {request} has {int(counts[request])} candidates of {mask.group_size} rows, but "
            f"only {int(rows[request])} key rows in all"
        )
    if prefix_len is not None and len(prefix_len) != (total := int(counts.sum())):
        raise ValueError(f"prefix_len must be (sum of num_candidates,) = ({total},), got {tuple(prefix_len.shape)}")


def _check_positions(positions: Tensor, keys: Tensor) -> None:
    """`keys`: of the request of every query row."""
    behind = positions[: len(keys)] >= keys
    if bool(behind.any()):
        row = int(behind.nonzero()[0])
        raise ValueError(
            f"q_positions: row {row} is at key position {int(positions[row])}, but its request has {int(keys[row])} "
            "keys"
        )


def why_not_triton(q: Tensor) -> str:
    """Why the fused kernel cannot take this q; empty if it can."""
    if q.dtype not in TRITON_DTYPES or q.shape[2] > LARGEST_HEAD:
        return (
            f"the fused kernel takes fp32, fp16 or bf16 and head sizes up to {LARGEST_HEAD}, got {q.dtype} and "
            f"{q.shape[2]}"
        )
    if q.device.type != "cuda" and q.dtype == torch.bfloat16 and is_interpreted():
        # It multiplies the raw 16-bit patterns (in Triton 3.6 and 3.7).
        return "Triton's interpreter multiplies bf16 wrongly without saying so; use fp16 or fp32 there"
    return ""
