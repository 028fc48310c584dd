"""Cross-causal attention with torch's fused attention on buckets of requests of similar length, padded together.

The quick form without a GPU: a few large calls instead of one small call per request. Requests are sorted by key length
and cut into buckets; a bucket takes in the next request until its padding costs as much as another call.

With candidates, little work is spent on hidden keys: event rows meet the event keys only, and groups go
`CANDIDATES_PER_BLOCK` at a time, meeting the event keys and the keys of their own block. So the cost grows with the
number of candidates, not with its square. With few event rows and groups, both meet all keys of their request instead,
which then have to be laid out once and not twice.

Torch's fused attention walks keys in blocks, and the end of the last block decides how its sums round. With
`torch.use_deterministic_algorithms`, keys are padded to whole blocks, so that a row's result does not depend on the
number of keys behind its visible ones. (A linear layer needs MKL_CBWR=AVX2,STRICT in the environment for the same.)
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from dist_rec.kernels.cross_causal_attention.mask import Mask

# Costs of forward and backward, in units of one row meeting one key, as powers of two; measured in README.md.
BUCKET_COST = 8192  # another call
PIECE_COST = 512  # another member of a call
KEY_COST = 4  # another key, to be gathered
CANDIDATES_PER_BLOCK = 64
KEY_BLOCK = 512  # keys that torch's fused CPU attention takes at a time


@dataclass(frozen=True)
class Pieces:
    """Jagged pieces of work, each a run of query rows over a run of keys.

    - `rows` (R,) and `keys` (S,) int64, indices into the queries and keys of all requests, piece after piece
    - `row_counts`, `key_counts` (pieces,) int64
    - per row (R,) int64, in key positions of its piece: the row attends to j < `limit`, and `start` <= j <= `stop`
    """

    rows: Tensor
    row_counts: Tensor
    keys: Tensor
    key_counts: Tensor
    limit: Tensor
    start: Tensor
    stop: Tensor
    has_own: bool = False  # whether any row has keys between start and stop
    square: bool = False  # whether every key is a row too, in the same order, and attends to itself and all older keys


@dataclass(frozen=True)
class Groups:
    """Candidates of every request: `counts`, `num_events`, `starts` (its first key) (B,) int64, and `prefix_len`."""

    counts: Tensor
    num_events: Tensor
    starts: Tensor
    size: int
    prefix_len: Tensor | None

    def candidate(self, request: Tensor, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """For rows that belong to a group: number of the candidate, place in its group, and its `prefix_len`."""
        in_groups = position - self.num_events[request]
        candidate = in_groups.div(self.size, rounding_mode="floor")
        if self.prefix_len is None:
            return candidate, in_groups - candidate * self.size, self.num_events[request]
        first = self.counts.cumsum(0) - self.counts
        return candidate, in_groups - candidate * self.size, self.prefix_len.long()[first[request] + candidate]


def bucketed_attention(
    q: Tensor, k: Tensor, v: Tensor, q_offsets: Tensor, kv_offsets: Tensor, mask: Mask, scale: float
) -> Tensor:
    """See `cross_causal_attention`. Reads the lengths on the host."""
    q_lengths, kv_lengths = q_offsets.diff().long(), kv_offsets.diff().long()
    request = _segment_ids(q_lengths)
    row = torch.arange(len(request), device=q.device)
    # Bottom-right: the last query row has the position of the last key.
    position = (
        row - (q_offsets[1:] - kv_lengths)[request] if mask.q_positions is None else mask.q_positions[: len(row)].long()
    )
    if mask.key_valid is not None:
        # Zero weight times NaN would still be NaN.
        k, v = (x.masked_fill(~mask.key_valid[:, None, None], 0.0) for x in (k, v))
    if mask.causal and mask.num_candidates is not None:
        counts, size = mask.num_candidates.long(), mask.group_size
        groups = Groups(counts, kv_lengths - counts * size, kv_offsets[:-1].long(), size, mask.prefix_len)
        pieces = _pieces_of_groups(row, request, position, kv_lengths, groups)
    else:
        limit = position + 1 if mask.causal else kv_lengths[request]
        key = torch.arange(k.shape[0], device=q.device)
        pieces = [Pieces(row, q_lengths, key, kv_lengths, limit, limit, limit - 1)]
    return _attend(q, k, v, mask.key_valid, scale, pieces)


def _pieces_of_groups(
    row: Tensor, request: Tensor, position: Tensor, kv_lengths: Tensor, groups: Groups
) -> list[Pieces]:
    """Event rows apart from the groups' rows, or all rows of a request over all its keys, whichever costs less."""
    in_group = position >= groups.num_events[request]
    event_rows = torch.zeros_like(kv_lengths).index_add(0, request, (~in_group).long())
    # Together, event rows meet the groups' keys for nothing, and if every event is a row, the causal mask has to be
    # written out; apart, the events are laid out twice, in calls of their own.
    wasted = event_rows * groups.counts * groups.size
    if torch.equal(event_rows, groups.num_events):
        wasted = wasted + event_rows.square() // 2
    saved = KEY_COST * groups.num_events + PIECE_COST * (event_rows > 0)
    few = len(kv_lengths) and bool(
        (groups.counts.max() <= CANDIDATES_PER_BLOCK) & ((wasted - saved).sum() <= BUCKET_COST)
    )
    # Apart, an event's bits do not depend on later keys, which matters in deterministic mode and for candidates in the
    # middle of a history.
    if few and groups.prefix_len is None and not torch.are_deterministic_algorithms_enabled():
        return [_whole_pieces(row, request, position, in_group, kv_lengths, groups)]
    return [
        _event_pieces(row[~in_group], request, position, event_rows, groups),
        _group_pieces(row[in_group], request, position, groups),
    ]


def _whole_pieces(
    row: Tensor, request: Tensor, position: Tensor, in_group: Tensor, kv_lengths: Tensor, groups: Groups
) -> Pieces:
    """One piece per request: all its rows over all its keys."""
    limit, inside = position + 1, in_group.nonzero()[:, 0]
    start = limit.clone()
    _, place, limit[inside] = groups.candidate(request[inside], position[inside])
    start[inside] -= place + 1
    row_counts = torch.bincount(request, minlength=len(kv_lengths))
    keys = torch.arange(int(kv_lengths.sum()), device=row.device)
    return Pieces(row, row_counts, keys, kv_lengths, limit, start, position, has_own=True)


def _event_pieces(row: Tensor, request: Tensor, position: Tensor, row_counts: Tensor, groups: Groups) -> Pieces:
    """One piece per request: its event rows over its event keys."""
    limit = position[row] + 1
    keys = _ranges(groups.starts, groups.num_events)
    in_piece = torch.arange(len(row), device=row.device) - (row_counts.cumsum(0) - row_counts)[request[row]]
    square = torch.equal(row_counts, groups.num_events) and torch.equal(position[row], in_piece)
    return Pieces(row, row_counts, keys, groups.num_events, limit, limit, limit - 1, square=square)


def _group_pieces(row: Tensor, request: Tensor, position: Tensor, groups: Groups) -> Pieces:
    """One piece per block of candidates: their rows over the request's event keys followed by the block's own keys."""
    size = CANDIDATES_PER_BLOCK * groups.size
    num_blocks = (groups.counts + CANDIDATES_PER_BLOCK - 1).div(CANDIDATES_PER_BLOCK, rounding_mode="floor")
    block_request = _segment_ids(num_blocks)
    first_block = num_blocks.cumsum(0) - num_blocks
    number = torch.arange(len(block_request), device=row.device) - first_block[block_request]
    own = (groups.counts[block_request] * groups.size - number * size).clamp(max=size)
    events, start = groups.num_events[block_request], groups.starts[block_request]
    # Event keys, padding (the last event again) and own keys of a block.
    padding = _whole_blocks(events) - events
    key_counts = events + padding + own
    block = _segment_ids(key_counts)
    j = torch.arange(len(block), device=row.device) - (key_counts.cumsum(0) - key_counts)[block]
    own_place = j - padding[block] + (number * size)[block]
    keys = start[block] + torch.where(j < (events + padding)[block], torch.minimum(j, events[block] - 1), own_place)

    candidate, place, limit = groups.candidate(request[row], position[row])
    start = _whole_blocks(groups.num_events)[request[row]] + candidate % CANDIDATES_PER_BLOCK * groups.size
    block = first_block[request[row]] + candidate.div(CANDIDATES_PER_BLOCK, rounding_mode="floor")
    row_counts = torch.bincount(block, minlength=len(block_request))
    # Positions may be in any order; the rows of pieces are ordered by block.
    order = block.argsort(stable=True)
    return Pieces(
        row[order], row_counts, keys, key_counts, limit[order], start[order], (start + place)[order], has_own=True
    )


def _attend(q: Tensor, k: Tensor, v: Tensor, key_valid: Tensor | None, scale: float, pieces: list[Pieces]) -> Tensor:
    """(sum_q, H, D): outputs of all rows; zeros for rows of no piece and for rows without a visible key."""
    attended: list[Tensor] = []
    blind = torch.ones(len(q), dtype=torch.bool, device=q.device)
    place = torch.zeros(len(q), dtype=torch.int64, device=q.device)
    num_slots = 0
    for work in pieces:
        layout = Layout.of(work)
        if not layout.shapes:
            continue
        outputs, has_key = _attend_buckets(q, k, v, key_valid, scale, work, layout)
        attended += outputs
        place[work.rows] = layout.place + num_slots
        blind[work.rows] = ~has_key
        num_slots += len(layout.row_at)
    if not attended:
        return torch.zeros_like(q) + sum(x[:0].sum() for x in (q, k, v))  # part of the graph all the same
    out = _take(torch.cat(attended), place)
    return out.masked_fill(blind[:, None, None], 0.0) if blind.any() else out


@dataclass(frozen=True)
class Layout:
    """Padded slots of all buckets, one after the other.

    - `row_at`, `key_at` (slots,) int64: the element of `rows` or `keys` in each slot; padding repeats the piece's last
      one
    - `place` (R,) int64: the slot of each row, anywhere for a piece without keys
    - `shapes`: members, rows and keys of each bucket
    """

    row_at: Tensor
    key_at: Tensor
    place: Tensor
    shapes: list[tuple[int, int, int]]

    @classmethod
    def of(cls, work: Pieces) -> "Layout":
        row_counts, key_counts = work.row_counts.tolist(), _whole_blocks(work.key_counts).tolist()
        found = buckets(key_counts, row_counts)
        shapes = [(len(b), max(row_counts[i] for i in b), key_counts[b[0]]) for b in found]
        wide = [[b, rows, keys] for bucket, (_, rows, keys) in zip(found, shapes) for b in bucket]
        members, *widths = torch.tensor(wide, dtype=torch.int64, device=work.rows.device).view(-1, 3).unbind(1)
        row_starts, key_starts = (counts.cumsum(0) - counts for counts in (work.row_counts, work.key_counts))
        first_slot = torch.zeros_like(row_starts)
        first_slot[members] = widths[0].cumsum(0) - widths[0]
        place = (
            torch.arange(len(work.rows), device=members.device)
            + (first_slot - row_starts)[_segment_ids(work.row_counts)]
        )
        return cls(
            _padded_runs(row_starts[members], work.row_counts[members], widths[0]),
            _padded_runs(key_starts[members], work.key_counts[members], widths[1]),
            place.clamp(max=max(sum(members * rows for members, rows, _ in shapes) - 1, 0)),
            shapes,
        )


def _attend_buckets(
    q: Tensor, k: Tensor, v: Tensor, key_valid: Tensor | None, scale: float, work: Pieces, layout: Layout
) -> tuple[list[Tensor], Tensor]:
    """Outputs (slots of a bucket, H, D) of every bucket, and (R,) bool, whether each row has a visible key."""
    row_slots, key_slots = ([shape[0] * shape[i] for shape in layout.shapes] for i in (1, 2))
    key_at = work.keys[layout.key_at]
    padded_q = _take(q, work.rows[layout.row_at]).split(row_slots)
    padded_k, padded_v = (_take(x, key_at).split(key_slots) for x in (k, v))
    is_key = None if key_valid is None else key_valid[key_at].split(key_slots)
    has_key = (work.limit > 0) | (work.stop >= work.start)
    # A row without a visible key would make softmax divide zero by zero: it gets the first key, and zeros in the end.
    limit = work.limit.masked_fill(~has_key, 1)
    bounds = [x[layout.row_at].split(row_slots) for x in ((limit, work.start, work.stop) if work.has_own else (limit,))]
    zero, hidden = q.new_zeros(()), q.new_full((), -torch.inf)
    attended, row_has_key = [], []
    for i, (members, num_rows, num_keys) in enumerate(layout.shapes):
        queries, keys, values = (
            x[i].unflatten(0, (members, -1)).transpose(1, 2) for x in (padded_q, padded_k, padded_v)
        )
        if work.square and key_valid is None:
            # Every event is a row: the plain causal mask, which needs no tensor. Padding comes after all real keys.
            out = scaled_dot_product_attention(queries, keys, values, is_causal=True, scale=scale)
        else:
            j = torch.arange(num_keys, device=q.device)
            limit, *own = (bound[i].view(members, num_rows, 1) for bound in bounds)
            visible = j < limit
            if own:
                visible |= (j >= own[0]) & (j <= own[1])
            if is_key is not None:
                visible &= is_key[i].view(members, 1, num_keys)
                row_has_key.append(visible.any(-1))
                visible |= ~row_has_key[-1].unsqueeze(-1)
            mask = torch.where(visible.unsqueeze(1), zero, hidden)
            out = scaled_dot_product_attention(queries, keys, values, attn_mask=mask, scale=scale)
        attended.append(out.transpose(1, 2).flatten(0, 1))
    if row_has_key:
        has_key = has_key & torch.cat([x.flatten() for x in row_has_key])[layout.place]
    return attended, has_key


def _segment_ids(lengths: Tensor) -> Tensor:
    """(sum lengths,) int64: the piece, or request, of each element of a jagged tensor."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths)


def _ranges(starts: Tensor, lengths: Tensor) -> Tensor:
    """`start, start + 1, ..., start + length - 1` of every piece, one after the other."""
    piece = _segment_ids(lengths)
    return torch.arange(len(piece), device=starts.device) + (starts - (lengths.cumsum(0) - lengths))[piece]


def _padded_runs(starts: Tensor, lengths: Tensor, widths: Tensor) -> Tensor:
    """(sum widths,) int64: `start, start + 1, ...` of every member, its last element repeated up to its width."""
    member = _segment_ids(widths)
    column = torch.arange(len(member), device=starts.device) - (widths.cumsum(0) - widths)[member]
    return starts[member] + torch.minimum(column, (lengths - 1)[member])


def buckets(key_counts: list[int], row_counts: list[int]) -> list[list[int]]:
    """Pieces with rows and keys, grouped so that padding a group costs no more than another call. Longest first."""
    found: list[list[int]] = []
    useful = longest = most_rows = 0
    wanted = (b for b in range(len(key_counts)) if row_counts[b] and key_counts[b])
    for b in sorted(wanted, key=lambda b: (-key_counts[b], -row_counts[b], b)):
        keys, rows = key_counts[b], row_counts[b]
        useful, most_rows = useful + keys * (rows + KEY_COST), max(most_rows, rows)
        if found and (len(found[-1]) + 1) * longest * (most_rows + KEY_COST) - useful <= BUCKET_COST:
            found[-1].append(b)
        else:
            found.append([b])
            longest, most_rows, useful = keys, rows, keys * (rows + KEY_COST)
    return found


def _whole_blocks(lengths: Tensor) -> Tensor:
    """Lengths rounded up to whole blocks of the fused attention in torch's deterministic mode."""
    return lengths + -lengths % KEY_BLOCK if torch.are_deterministic_algorithms_enabled() else lengths


def _take(x: Tensor, index: Tensor) -> Tensor:
    """`x[index]`. On a CPU index_select is quicker, both ways; on a GPU its gradient would be added up by atomics."""
    return x[index] if x.is_cuda else x.index_select(0, index)
