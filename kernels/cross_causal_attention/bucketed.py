"""Cross-causal attention by padding requests of similar length together and calling torch's fused attention on each bucket.

The quick form where no GPU kernel runs: a few large calls instead of one small call per request. Requests are sorted by
key length and cut into buckets so that padding stays below `MAX_PADDING` of a bucket's keys.

With candidates, little work is done for keys that a row cannot see: event rows meet the event keys only, and groups go
`CANDIDATES_PER_BLOCK` at a time, meeting the event keys and the keys of their own block. So the cost grows with the number
of candidates, not with its square.

Torch's fused attention walks keys in blocks, and how the last block ends decides how its sums round. With
`torch.use_deterministic_algorithms`, keys are padded to whole blocks, so that a row's result does not depend on how many keys
stand behind those it sees. (A linear layer keeps its rows apart with MKL_CBWR=AVX2,STRICT in the environment.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

MAX_PADDING = 0.25  # of a bucket's padded keys
SMALL_BUCKET_KEYS = 2048  # below this many padded keys another call costs more than the padding
CANDIDATES_PER_BLOCK = 64
KEY_BLOCK = 512  # keys that torch's fused CPU attention takes at a time


@dataclass(frozen=True)
class Segments:
    """Packed pieces of work, each a run of query rows over a run of keys.

    - `rows` (R,) and `keys` (S,) int64, indices into the packed queries and keys, piece after piece; a key of -1 is padding
    - `row_counts`, `key_counts` (pieces,) int64
    - per row (R,) int64, in key positions of its piece: it sees j < `limit`, and `start` <= j <= `stop`
    """

    rows: Tensor
    row_counts: Tensor
    keys: Tensor
    key_counts: Tensor
    limit: Tensor
    start: Tensor
    stop: Tensor
    has_own: bool = False  # whether any row has keys between start and stop
    square: bool = False  # whether every key asks once, in order, and sees what is not newer than itself


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
    q_lengths, kv_lengths = q_offsets.diff().long(), kv_offsets.diff().long()
    row = torch.arange(q.shape[0], device=q.device)
    request = _owner(q_lengths)
    # Bottom-right: the last query row sits on the last key.
    bottom_right = row - q_offsets.long()[1:][request] + kv_lengths[request]
    position = bottom_right if q_positions is None else q_positions.long()
    if not causal or num_candidates is None:
        limit = position + 1 if causal else kv_lengths[request]
        key = torch.arange(k.shape[0], device=q.device)
        pieces = [Segments(row, q_lengths, key, kv_lengths, limit, limit, limit - 1)]
    else:
        counts = num_candidates.long()
        num_events = kv_lengths - counts * group_size
        in_group = position >= num_events[request]
        starts = kv_offsets.long()[:-1]
        pieces = [
            _event_pieces(row[~in_group], request, position, starts, num_events),
            _group_pieces(row[in_group], request, position, starts, num_events, counts, group_size, seen),
        ]
    parts = [_attend(q, k, v, key_valid, scale, piece) for piece in pieces]
    return torch.empty_like(q).index_copy(0, torch.cat([piece.rows for piece in pieces]), torch.cat(parts))


def _event_pieces(rows: Tensor, request: Tensor, position: Tensor, starts: Tensor, num_events: Tensor) -> Segments:
    """One piece per request: its event rows over its event keys."""
    row_counts = torch.bincount(request[rows], minlength=len(starts))
    limit = position[rows] + 1
    keys = _ranges(starts, num_events)
    in_piece = torch.arange(len(rows), device=rows.device) - (row_counts.cumsum(0) - row_counts)[request[rows]]
    square = torch.equal(row_counts, num_events) and torch.equal(position[rows], in_piece)
    return Segments(rows, row_counts, keys, num_events, limit, limit, limit - 1, square=square)


def _group_pieces(
    rows: Tensor,
    request: Tensor,
    position: Tensor,
    starts: Tensor,
    num_events: Tensor,
    counts: Tensor,
    group_size: int,
    seen: Tensor | None,
) -> Segments:
    """One piece per block of candidates: their rows over the request's event keys followed by the block's own keys."""
    size = CANDIDATES_PER_BLOCK * group_size
    num_blocks = (counts + CANDIDATES_PER_BLOCK - 1).div(CANDIDATES_PER_BLOCK, rounding_mode="floor")
    block_request = _owner(num_blocks)
    first_block = num_blocks.cumsum(0) - num_blocks
    number = torch.arange(len(block_request), device=rows.device) - first_block[block_request]
    own = (counts[block_request] * group_size - number * size).clamp(max=size)
    events = num_events[block_request]
    # Event keys, padding and own keys of a block.
    padding = _whole_blocks(events) - events
    run_starts = torch.stack([starts[block_request], padding, starts[block_request] + events + number * size], dim=1)
    run_lengths = torch.stack([events, padding, own], dim=1).flatten()
    is_padding = torch.tensor([False, True, False], device=rows.device).repeat(len(events)).repeat_interleave(run_lengths)
    keys = _ranges(run_starts.flatten(), run_lengths).masked_fill(is_padding, -1)

    r = request[rows]
    in_groups = position[rows] - num_events[r]
    candidate = in_groups.div(group_size, rounding_mode="floor")
    limit = num_events[r] if seen is None else seen.long()[(counts.cumsum(0) - counts)[r] + candidate]
    start = _whole_blocks(num_events)[r] + candidate % CANDIDATES_PER_BLOCK * group_size
    block = first_block[r] + candidate.div(CANDIDATES_PER_BLOCK, rounding_mode="floor")
    row_counts = torch.bincount(block, minlength=len(block_request))
    # Rows may come in any order of positions; pieces want them block after block.
    order = block.argsort(stable=True)
    stop = start + in_groups % group_size
    key_counts = events + padding + own
    return Segments(rows[order], row_counts, keys, key_counts, limit[order], start[order], stop[order], has_own=True)


def _attend(q: Tensor, k: Tensor, v: Tensor, key_valid: Tensor | None, scale: float, work: Segments) -> Tensor:
    """(R, H, D): outputs of `work.rows`, in their order."""
    out, places = [], []
    row_starts, key_starts = (counts.cumsum(0) - counts for counts in (work.row_counts, work.key_counts))
    for bucket in buckets(work.key_counts.tolist(), work.row_counts.tolist()):
        members = torch.tensor(bucket, device=q.device)
        at, is_row = _padded_index(row_starts[members], work.row_counts[members])
        key_at, is_key = _padded_index(key_starts[members], work.key_counts[members], whole_blocks=True)
        key_at = work.keys[key_at.clamp(max=max(len(work.keys) - 1, 0))] if len(work.keys) else torch.zeros_like(key_at)
        is_key, key_at = is_key & (key_at >= 0), key_at.clamp(min=0)
        if key_valid is not None and len(key_valid):
            is_key = is_key & key_valid[key_at]
        queries = q[work.rows[at]].transpose(1, 2)
        padded_k, padded_v = (_gather(packed, key_at, is_key).transpose(1, 2) for packed in (k, v))
        if work.square and key_valid is None:
            # Every event asks: the plain causal mask, which needs no tensor. Padding stands behind all real keys.
            attended = scaled_dot_product_attention(queries, padded_k, padded_v, is_causal=True, scale=scale).transpose(1, 2)
        else:
            visible, blind = _visible(work, at, is_key if key_valid is not None else None, key_at.shape[1])
            # A row that sees nothing would make softmax divide zero by zero: it sees all, then its output is blanked.
            mask = torch.logical_or(visible, blind, out=visible).unsqueeze(1)
            attended = scaled_dot_product_attention(queries, padded_k, padded_v, attn_mask=mask, scale=scale)
            attended = attended.transpose(1, 2).masked_fill(blind.unsqueeze(-1), 0.0)
        out.append(attended[is_row])
        places.append(at[is_row])
    if not out:
        return q[:0] + 0.0 * (k[:0].sum() + v[:0].sum())
    packed = torch.cat(out)
    return torch.empty_like(packed).index_copy(0, torch.cat(places), packed)


def _visible(work: Segments, at: Tensor, is_key: Tensor | None, num_keys: int) -> tuple[Tensor, Tensor]:
    """(members, rows, keys) bool, which keys each row sees, and (members, rows, 1) bool, rows that see none."""
    j = torch.arange(num_keys, device=at.device)
    limit, start, stop = (bound[at].unsqueeze(-1) for bound in (work.limit, work.start, work.stop))
    visible = j < limit
    if work.has_own:
        visible |= (j >= start) & (j <= stop)
    if is_key is None:
        # Limits never reach into padding, so a row's bounds alone say whether it sees anything.
        return visible, (limit <= 0) & (stop < start)
    visible &= is_key.unsqueeze(1)
    return visible, ~visible.any(-1, keepdim=True)


def _owner(lengths: Tensor) -> Tensor:
    """(sum lengths,) int64: the piece each packed element belongs to."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """`start, start + 1, ..., start + length - 1` of every piece, one after the other."""
    shift = starts - (lengths.cumsum(0) - lengths)
    return torch.arange(int(lengths.sum()), device=starts.device) + shift[_owner(lengths)]


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


def _whole_blocks(lengths: Tensor) -> Tensor:
    """Lengths rounded up to whole blocks of the fused attention if torch asks for deterministic algorithms."""
    return lengths + -lengths % KEY_BLOCK if torch.are_deterministic_algorithms_enabled() else lengths


def _padded_index(starts: Tensor, lengths: Tensor, *, whole_blocks: bool = False) -> tuple[Tensor, Tensor]:
    """(members, longest) index into a segment, and which entries are real; padding repeats the member's last row."""
    widest = lengths.max()
    longest = max(int(_whole_blocks(widest) if whole_blocks else widest), 1)
    column = torch.arange(longest, device=starts.device)
    real = column < lengths.unsqueeze(1)
    last = (lengths - 1).clamp(min=0).unsqueeze(1)
    return starts.unsqueeze(1) + torch.minimum(column, last), real


def _gather(packed: Tensor, index: Tensor, real: Tensor) -> Tensor:
    """(*index.shape, H, D) rows; hidden ones are zero, since zero weight times NaN would still be NaN."""
    if packed.shape[0] == 0:
        # A sum over nothing is zero and stays in the graph, so that keys and values still get a gradient.
        return packed.sum().expand(*index.shape, *packed.shape[1:])
    return packed[index.clamp(max=packed.shape[0] - 1)].masked_fill(~real[..., None, None], 0.0)
