"""What `cross_causal_attention` refuses, and when its fused kernel can run. Nothing here reads a value from the device."""

from importlib.util import find_spec

import torch
from torch import Tensor

from dist_rec.kernels.common.offsets import check_offsets, readable

LARGEST_HEAD = 256
TRITON_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def check_inputs(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    causal: bool,
    num_candidates: Tensor | None,
    group_size: int,
    seen: Tensor | None,
    q_positions: Tensor | None,
    key_valid: Tensor | None,
    scale: float | None,
) -> None:
    """Raises ValueError saying what was expected and what came."""
    shapes = f"got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
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
        "num_candidates": (num_candidates, q_offsets.shape[0] - 1),
        "q_positions": (q_positions, q.shape[0]),
        "key_valid": (key_valid, k.shape[0]),
    }
    for name, (tensor, size) in expected.items():
        if tensor is not None and tuple(tensor.shape) != (size,):
            raise ValueError(f"{name} must have shape ({size},), got {tuple(tensor.shape)}")
    if key_valid is not None and key_valid.dtype != torch.bool:
        raise ValueError(f"key_valid must be bool, got {key_valid.dtype}")
    integers = (q_offsets, kv_offsets, num_candidates, seen, q_positions)
    if any(t is not None and t.dtype not in (torch.int32, torch.int64) for t in integers):
        raise ValueError("offsets, num_candidates, seen and q_positions must be int32 or int64")
    if any(t is not None and t.device != q.device for t in (k, v, *integers, key_valid)):
        raise ValueError(f"all tensors must be on the device of q, {q.device}")
    if not causal and (num_candidates is not None or q_positions is not None):
        raise ValueError("causal=False lets every row see every key; num_candidates and q_positions have no meaning with it")
    if seen is not None and num_candidates is None:
        raise ValueError("seen needs num_candidates, to know which rows belong to which candidate")
    if group_size < 1:
        raise ValueError(f"group_size must be at least 1, got {group_size}")
    if scale is not None and not scale > 0:
        raise ValueError(f"scale must be positive, got {scale}")


@torch.compiler.disable
def check_values(
    sum_q: int,
    sum_kv: int,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    num_candidates: Tensor | None,
    group_size: int,
    seen: Tensor | None,
) -> None:
    """Of tensors in host memory; of others nothing is asked. Also where the rest is compiled: backends of the CPU read offsets
    anyway. Raises ValueError for offsets that are none and for more candidates than there are rows."""
    if not readable(q_offsets, kv_offsets, num_candidates, seen):
        return
    check_offsets("q_offsets", q_offsets, sum_q, padded=True)
    check_offsets("kv_offsets", kv_offsets, sum_kv, padded=True)
    if num_candidates is None:
        return
    rows = kv_offsets.diff()
    wrong = (num_candidates < 0) | (num_candidates * group_size > rows)
    if bool(wrong.any()):
        request = int(wrong.nonzero()[0])
        raise ValueError(
            f"num_candidates: request {request} has {int(num_candidates[request])} candidates of {group_size} rows, but only "
            f"{int(rows[request])} key rows in all"
        )
    if seen is not None and len(seen) != (total := int(num_candidates.sum())):
        raise ValueError(f"seen must be (sum of num_candidates,) = ({total},), got {tuple(seen.shape)}")


def why_not_triton(q: Tensor) -> str:
    """Why `auto` does not take the fused kernel for this q; empty if it does."""
    if q.device.type != "cuda":
        return f"inputs on {q.device.type}"
    if find_spec("triton") is None:
        return "Triton is not installed"
    if q.dtype not in TRITON_DTYPES:
        return f"the fused kernel has no {q.dtype}"
    return f"head size {q.shape[2]} is above {LARGEST_HEAD}" if q.shape[2] > LARGEST_HEAD else ""


def check_triton(q: Tensor) -> None:
    """Raises if the fused kernel was asked for and cannot run."""
    if find_spec("triton") is None:
        raise RuntimeError("backend='triton' needs Triton; it is not installed")
    if q.dtype not in TRITON_DTYPES or q.shape[2] > LARGEST_HEAD:
        raise ValueError(
            f"backend='triton' takes fp32, fp16 or bf16 and head sizes up to {LARGEST_HEAD}, got {q.dtype} and {q.shape[2]}"
        )
    if q.device.type == "cuda":
        return
    if not is_interpreted():
        raise RuntimeError(f"backend='triton' needs CUDA tensors, got {q.device.type}; the CPU has only Triton's interpreter")
    if q.dtype == torch.bfloat16:
        # It multiplies the raw 16-bit patterns (seen in 3.6 and 3.7).
        raise ValueError("Triton's interpreter multiplies bf16 wrongly without saying so; use fp16 or fp32 there")


def is_interpreted() -> bool:
    """Whether the kernels were loaded for Triton's interpreter (TRITON_INTERPRET=1 at import)."""
    import triton

    from dist_rec.kernels.cross_causal_attention.forward import forward

    return not isinstance(forward, triton.JITFunction)
