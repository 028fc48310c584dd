"""The definition of cross-causal attention: one request at a time, the mask written out, any dtype up to float64."""

import torch
from torch import Tensor

from dist_rec.kernels.cross_causal_attention.mask import Mask


def reference_attention(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, kv_offsets: Tensor, mask: Mask, scale: float
) -> Tensor:
    """See `cross_causal_attention`. fp16 and bf16 inputs are computed in fp32 and rounded once at the end."""
    out, first_candidate = [], 0
    for b in range(q_offsets.shape[0] - 1):
        rows, keys = slice(int(q_offsets[b]), int(q_offsets[b + 1])), slice(int(kv_offsets[b]), int(kv_offsets[b + 1]))
        q_len, kv_len = rows.stop - rows.start, keys.stop - keys.start
        positions = torch.arange(kv_len - q_len, kv_len) if mask.q_positions is None else mask.q_positions[rows].cpu()
        count = 0 if mask.num_candidates is None else int(mask.num_candidates[b])
        prefix_len = (
            None if mask.prefix_len is None else mask.prefix_len[first_candidate : first_candidate + count].cpu()
        )
        visible = torch.ones(q_len, kv_len, dtype=torch.bool)
        if mask.causal:
            visible = visible_keys(positions, kv_len, kv_len - count * mask.group_size, mask.group_size, prefix_len)
        if mask.key_valid is not None:
            visible = visible & mask.key_valid[keys].cpu()
        # A key that no row attends to may hold anything; zero weight times NaN would still be NaN.
        unused = ~visible.any(0).to(k.device)[:, None, None]
        used_k, used_v = (x[keys].masked_fill(unused, 0.0) for x in (k, v))
        out.append(_attend(q[rows], used_k, used_v, visible.to(q.device), scale))
        first_candidate += count
    nothing = q[:0] + k[:0].sum() + v[:0].sum()  # without a request still part of the graph
    return torch.cat([nothing, *out, torch.zeros_like(q[int(q_offsets[-1]) :])])


def visible_keys(positions: Tensor, kv_len: int, num_events: int, group_size: int, prefix_len: Tensor | None) -> Tensor:
    """(q_len, kv_len) bool: the keys that each row of a request attends to: `num_events` events, then groups."""
    visible = torch.zeros(len(positions), kv_len, dtype=torch.bool)
    for row, p in enumerate(positions.tolist()):
        if p < num_events:
            visible[row, : max(p + 1, 0)] = True  # with more rows than keys the first rows come before all keys
            continue
        candidate = (p - num_events) // group_size
        visible[row, : num_events if prefix_len is None else int(prefix_len[candidate])] = True
        visible[row, num_events + candidate * group_size : p + 1] = True
    return visible


def _attend(q: Tensor, k: Tensor, v: Tensor, visible: Tensor, scale: float) -> Tensor:
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    scores = torch.einsum("qhd,khd->hqk", q.to(wide), k.to(wide)) * scale
    hidden = ~visible
    # Rows without a visible key: finite scores keep softmax and its gradient free of NaN, then the weights become 0.
    scores = scores.masked_fill(hidden & visible.any(1, keepdim=True), float("-inf"))
    weights = scores.softmax(-1).masked_fill(hidden, 0.0)
    return torch.einsum("hqk,khd->qhd", weights, v.to(wide)).to(q.dtype)
