"""Cross-causal attention by padding requests of similar length together and calling torch's fused attention on each bucket.

The quick form where no GPU kernel runs: a few large calls instead of one small call per request. Requests are sorted by
key length and cut into buckets so that padding stays below `MAX_PADDING` of a bucket's keys.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MAX_PADDING = 0.25  # of a bucket's padded keys
SMALL_BUCKET_KEYS = 2048  # below this many padded keys another call costs more than the padding


def bucketed_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    *,
    causal: bool,
    num_candidates: Tensor | None,
    group_size: int,
    seen: Tensor | None,
    q_positions: Tensor | None,
    key_valid: Tensor | None,
    scale: float,
) -> Tensor:
    """See `cross_causal_attention`. Reads the lengths on the host."""
    q_lengths, kv_lengths = q_offsets.diff(), kv_offsets.diff()
    rows = _row_limits(q_offsets, kv_lengths, causal, num_candidates, group_size, seen, q_positions, q.shape[0])
    pieces, places = [], []
    for bucket in buckets(kv_lengths.tolist(), q_lengths.tolist()):
        members = torch.tensor(bucket, device=q.device)
        q_index, q_real = _padded_index(q_offsets[:-1][members], q_lengths[members])
        kv_index, kv_real = _padded_index(kv_offsets[:-1][members], kv_lengths[members])
        if key_valid is not None:
            kv_real = kv_real & key_valid[kv_index]
        key = torch.arange(kv_index.shape[1], device=q.device)
        limit, start, own = (attribute[q_index].unsqueeze(-1) for attribute in (rows.events, rows.group_start, rows.position))
        visible = ((key < limit) | ((key >= start) & (key <= own))) & kv_real.unsqueeze(1)
        # A row that sees nothing would make softmax divide zero by zero: let it see all, then blank its output.
        blind = ~visible.any(-1, keepdim=True)
        out = scaled_dot_product_attention(
            q[q_index].transpose(1, 2),
            _finite(k, kv_index, kv_real),
            _finite(v, kv_index, kv_real),
            attn_mask=(visible | blind).unsqueeze(1),
            scale=scale,
        )
        out = out.transpose(1, 2).masked_fill(blind.unsqueeze(-1), 0.0)
        pieces.append(out[q_real])
        places.append(q_index[q_real])
    if not pieces:
        return (q + 0.0 * (k.sum() + v.sum())) * 0.0
    packed = torch.cat(pieces)
    return torch.empty_like(packed).index_copy(0, torch.cat(places), packed)


@dataclass(frozen=True)
class RowLimits:
    """What each query row sees: key j is visible if j < events or group_start <= j <= position. All (sum_q,) int64."""

    events: Tensor
    group_start: Tensor
    position: Tensor


def _row_limits(
    q_offsets: Tensor,
    kv_lengths: Tensor,
    causal: bool,
    num_candidates: Tensor | None,
    group_size: int,
    seen: Tensor | None,
    q_positions: Tensor | None,
    num_rows: int,
) -> RowLimits:
    batch = torch.arange(len(kv_lengths), device=kv_lengths.device).repeat_interleave(q_offsets.diff(), output_size=num_rows)
    keys = kv_lengths.long()[batch]
    if not causal:
        return RowLimits(keys, keys, keys)
    if q_positions is None:
        # Bottom-right: the last query row sits on the last key.
        q_positions = torch.arange(num_rows, device=keys.device) - q_offsets.long()[1:][batch] + keys
    position = q_positions.long()
    if num_candidates is None:
        return RowLimits(position + 1, keys, position)
    num_events = keys - num_candidates.long()[batch] * group_size
    in_group = position >= num_events
    candidate = (position - num_events).div(group_size, rounding_mode="floor").clamp(min=0)
    events = torch.where(in_group, num_events, position + 1)
    if seen is not None:
        first = num_candidates.long().cumsum(0) - num_candidates.long()
        index = (first[batch] + candidate).clamp(max=max(len(seen) - 1, 0))
        events = torch.where(in_group, seen.long()[index], events) if len(seen) else events
    return RowLimits(events, torch.where(in_group, num_events + candidate * group_size, keys), position)


def buckets(kv_lengths: list[int], q_lengths: list[int]) -> list[list[int]]:
    """Requests with at least one query, grouped so that each group pads little. Longest first."""
    order = sorted((b for b in range(len(kv_lengths)) if q_lengths[b]), key=lambda b: (-kv_lengths[b], -q_lengths[b], b))
    found: list[list[int]] = []
    total = longest = 0
    for b in order:
        padded = longest * (len(found[-1]) + 1) if found else 0
        fits = padded <= SMALL_BUCKET_KEYS or total + kv_lengths[b] >= (1 - MAX_PADDING) * padded
        if found and fits:
            found[-1].append(b)
            total += kv_lengths[b]
        else:
            found.append([b])
            total = longest = kv_lengths[b]
    return found


def _padded_index(starts: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """(members, longest) index into packed rows, and which entries are real; padding repeats the member's last row."""
    longest = max(int(lengths.max()), 1)
    column = torch.arange(longest, device=starts.device)
    real = column < lengths.unsqueeze(1)
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    return starts.long().unsqueeze(1) + torch.minimum(column, last.long()), real


def _finite(packed: Tensor, index: Tensor, real: Tensor) -> Tensor:
    """(members, H, longest, D) padded rows; hidden ones are zero, since zero weight times NaN would still be NaN."""
    if packed.shape[0] == 0:
        return packed.new_zeros(*index.shape, *packed.shape[1:]).transpose(1, 2)
    index = index.clamp(max=packed.shape[0] - 1)
    return packed[index].masked_fill(~real[..., None, None], 0.0).transpose(1, 2)
