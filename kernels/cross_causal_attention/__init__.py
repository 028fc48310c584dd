"""Cross-causal attention on jagged batches: a short block of query rows attends to a long history.

Legend: B requests, H heads, D head size, m rows of one candidate's group, c candidates of one request.
"""

from typing import Literal

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import HAS_TRITON, choose
from dist_rec.kernels.common.native import why_not_native
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.cross_causal_attention.bucketed import bucketed_attention
from dist_rec.kernels.cross_causal_attention.checks import check_inputs, check_values, why_not_triton
from dist_rec.kernels.cross_causal_attention.mask import Mask
from dist_rec.kernels.cross_causal_attention.native import native_attention
from dist_rec.kernels.cross_causal_attention.reference import reference_attention

if HAS_TRITON:
    from dist_rec.kernels.cross_causal_attention.op import fused_attention
else:
    fused_attention = None

Backend = Literal["auto", "triton", "native", "bucketed", "reference"]

__all__ = ["Backend", "Mask", "cross_causal_attention"]


@traceable
def cross_causal_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    *,
    causal: bool = True,
    num_candidates: Tensor | None = None,
    group_size: int = 1,
    prefix_len: Tensor | None = None,
    q_positions: Tensor | None = None,
    key_valid: Tensor | None = None,
    mask: Mask | None = None,
    scale: float | None = None,
    max_q_len: int | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """`softmax(scale * q k^T + mask) v` for every request of a jagged batch.

    The keys of a request are `[events oldest..newest, group 1, ..., group c]`; a group is the m global rows of one
    candidate. The queries of a request are the last q_len of those rows, unless `q_positions` gives other positions. A
    row at key position p attends to

    - without `num_candidates`: the keys at positions <= p (bottom-right causal, as in flash attention's varlen call);
    - with `num_candidates`, if p is an event: the events at positions <= p, and never a global row;
    - with `num_candidates`, if p belongs to a group: the oldest `prefix_len` events (by default all events), and the
      rows of its own group up to p.

    This is LONGER's `j >= i` over `[globals; newest..oldest]` (arXiv 2505.04421, section 3.5.2), reversed. With
    `causal=False` a row attends to all keys of its request. A row without a visible key gives zeros and no gradient.

    With fewer key-value than query heads, query head h uses key-value head h // (H / H_kv). Under autocast the inputs
    are cast to its dtype. On CUDA no backend but `reference` and `bucketed` reads a value on the host. All are
    deterministic, and a request's result does not depend on the others of its batch (README.md has the exceptions).

    Args:
        q: (sum_q, H, D), float.
        k, v: (sum_kv, H_kv, D), same dtype and device as q; H_kv divides H. With v None, k is (sum_kv, 2 H_kv, D) and
            holds both, the heads of the keys before those of the values, as one linear layer makes them; so does its
            gradient, which the layer then reads in one piece.
        q_offsets, kv_offsets: (B + 1,) int32 or int64 prefix sums of the lengths, from 0 on. Rows behind the last
            offset are padding, and their output is zeros. Anything else, such as lengths, is a ValueError on a CPU; on
            CUDA, where the host does not wait for the values, it gives NaN everywhere.
        num_candidates: (B,) int32 or int64, candidates c of each request.
        group_size: m.
        prefix_len: (sum of num_candidates,) int32 or int64, how many of the oldest events each candidate attends to, in
            [0, events of its request].
        q_positions: (sum_q,) int32 or int64, key position of each query row.
        key_valid: (sum_kv,) bool, False hides a key from every row.
        mask: the six options above in one value, instead of them.
        scale: positive; defaults to 1 / sqrt(D).
        max_q_len: a promise that no request has more query rows. Up to 128 rows it lets the backward hold them all and
            read K and V once. If a request breaks the promise, its rows are NaN (the CPU's backends raise ValueError).
        backend: `triton` is the fused kernel (fp32, fp16, bf16; D <= 256); `native` is the one of a CPU, in C++
            (fp32); `bucketed` pads requests of similar length together; `reference` loops over requests, in float64
            too. `auto` takes `triton` on CUDA and `native` on a CPU where they can, else `bucketed`, and logs its
            choice once.

    Returns:
        (sum_q, H, D) in the dtype of q, or of autocast.

    Raises:
        ValueError: shapes, dtypes or options do not fit together, `mask` is given beside one of its options, or the
            backend that is asked for cannot take the inputs.
        RuntimeError: `backend="triton"` where there is neither a CUDA device nor Triton's interpreter.
    """
    options = Mask(causal, num_candidates, group_size, prefix_len, q_positions, key_valid)
    if mask is None:
        mask = options
    elif not options.is_default:
        raise ValueError("expected either mask or its options (causal, num_candidates, ...) by keyword, got both")
    if torch.amp.is_autocast_available(q.device.type) and torch.is_autocast_enabled(q.device.type):
        dtype = torch.get_autocast_dtype(q.device.type)
        q, k, v = q.to(dtype), k.to(dtype), None if v is None else v.to(dtype)
    check_inputs(q, k, v, q_offsets, kv_offsets, mask, scale)
    factor: float = q.shape[-1] ** -0.5 if scale is None else scale
    others = (q_offsets, kv_offsets, *mask.tensors)
    native_obstacle = why_not_native(q, k, *(() if v is None else (v,)), others=others)
    chosen = choose(
        "cross_causal_attention",
        backend,
        q.device,
        why_not_triton(q),
        native_obstacle=native_obstacle,
        fallback="bucketed",
    )
    if chosen == "triton":
        assert fused_attention is not None
        return fused_attention(q, k, v, q_offsets, kv_offsets, mask, factor, max_q_len)
    check_values(len(q), len(k), q_offsets, kv_offsets, mask)  # pyright: ignore[reportCallIssue] - disable is not typed
    if max_q_len is not None and len(q_offsets) > 1 and (longest := int(q_offsets.diff().max())) > max_q_len:
        raise ValueError(f"max_q_len={max_q_len} was promised, but a request has {longest} query rows")
    if chosen == "native":
        return native_attention(q, k, v, q_offsets, kv_offsets, mask, factor)
    k, v = k.chunk(2, dim=1) if v is None else (k, v)
    if k.shape[1] < q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in (k, v))
    attention = bucketed_attention if chosen == "bucketed" else reference_attention
    return attention(q, k, v, q_offsets, kv_offsets, mask, factor)
