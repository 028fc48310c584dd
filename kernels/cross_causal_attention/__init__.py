"""Cross-causal attention on jagged batches: a short block of query rows looks at a long history.

Legend: B requests, H heads, D head size, m rows of one candidate's group, c candidates of one request.
"""

from typing import Literal

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import log_choice
from dist_rec.kernels.cross_causal_attention.bucketed import bucketed_attention
from dist_rec.kernels.cross_causal_attention.reference import reference_attention

Backend = Literal["auto", "reference", "bucketed"]
_IMPLEMENTATIONS = {"reference": reference_attention, "bucketed": bucketed_attention}


def cross_causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    *,
    causal: bool = True,
    num_candidates: Tensor | None = None,
    group_size: int = 1,
    seen: Tensor | None = None,
    q_positions: Tensor | None = None,
    key_valid: Tensor | None = None,
    scale: float | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """`softmax(scale * q k^T + mask) v` for every request of a packed batch.

    The keys of a request are `[events oldest..newest, group 1, ..., group c]`; a group is the m global rows of one
    candidate. Its queries are the last q_len of those rows, unless `q_positions` says which. A row at key position p sees

    - without `num_candidates`: the keys at positions <= p (bottom-right causal, as in flash attention's varlen call);
    - with it, if p is an event: the events at positions <= p, and never a global;
    - with it, if p belongs to a group: the first `seen` events (all of them by default), and its own group up to p.

    This is LONGER's `j >= i` over `[globals; newest..oldest]` (arXiv 2505.04421, section 3.5.2), reversed. With
    `causal=False` every row sees every key of its request. A row without a visible key gives zeros and zero gradients.

    Args:
        q: (sum_q, H, D), float.
        k, v: (sum_kv, H, D), same dtype and device as q.
        q_offsets, kv_offsets: (B + 1,) int32 or int64 prefix sums of the lengths.
        num_candidates: (B,) int, candidates c of each request.
        group_size: m.
        seen: (sum_candidates,) int, events visible to each candidate, in [0, events of its request].
        q_positions: (sum_q,) int, key position of each query row.
        key_valid: (sum_kv,) bool, False hides a key from everyone.
        scale: defaults to 1 / sqrt(D).
        backend: `reference` loops over requests; `bucketed` pads requests of similar length together; `auto` takes
            `bucketed` and logs that once.

    Returns:
        (sum_q, H, D) in the dtype of q.

    Raises:
        ValueError: shapes, dtypes or options do not fit together.
    """
    _check(q, k, v, q_offsets, kv_offsets, num_candidates, seen, q_positions, key_valid)
    if not causal and (num_candidates is not None or q_positions is not None):
        raise ValueError("causal=False lets every row see every key; num_candidates and q_positions have no meaning with it")
    if seen is not None and num_candidates is None:
        raise ValueError("seen needs num_candidates, to know which rows belong to which candidate")
    if group_size < 1:
        raise ValueError(f"group_size must be at least 1, got {group_size}")
    if backend == "auto":
        backend = "bucketed"
        log_choice("cross_causal_attention", backend, "the only batched form on this build")
    if backend not in _IMPLEMENTATIONS:
        raise ValueError(f"backend must be one of auto, {', '.join(_IMPLEMENTATIONS)}, got {backend!r}")
    return _IMPLEMENTATIONS[backend](
        q,
        k,
        v,
        q_offsets,
        kv_offsets,
        causal=causal,
        num_candidates=num_candidates,
        group_size=group_size,
        seen=seen,
        q_positions=q_positions,
        key_valid=key_valid,
        scale=q.shape[-1] ** -0.5 if scale is None else scale,
    )


def _check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    num_candidates: Tensor | None,
    seen: Tensor | None,
    q_positions: Tensor | None,
    key_valid: Tensor | None,
) -> None:
    """Checks that need no value from the device."""
    if q.dim() != 3 or k.dim() != 3 or k.shape != v.shape or q.shape[1:] != k.shape[1:]:
        raise ValueError(
            f"expected q (sum_q, H, D) and k, v (sum_kv, H, D), got q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}"
        )
    if not (q.dtype == k.dtype == v.dtype and q.is_floating_point()):
        raise ValueError(f"q, k and v must share one floating dtype, got {q.dtype}, {k.dtype}, {v.dtype}")
    if q_offsets.dim() != 1 or q_offsets.shape != kv_offsets.shape or q_offsets.shape[0] < 1:
        raise ValueError(
            f"q_offsets and kv_offsets must both be (B + 1,), got {tuple(q_offsets.shape)}, {tuple(kv_offsets.shape)}"
        )
    batch = q_offsets.shape[0] - 1
    expected = {
        "num_candidates": (num_candidates, batch),
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
