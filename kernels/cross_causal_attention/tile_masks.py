"""The mask (`mask.py`) inside the Triton kernels, for tiles of query rows and blocks of keys.

A row attends to key positions j < `limit`, and `start` <= j <= `stop` of its own group. A tile of rows turns the bounds
of its rows into ranges of key blocks: blocks that are visible to all of its rows, and blocks that need a mask.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def row_bounds(
    i,
    is_row,
    b,
    q_start,
    q_len,
    kv_len,
    NUM_CANDIDATES,
    FIRST_CANDIDATE,
    PREFIX_LEN,
    Q_POSITIONS,
    group_size,
    CAUSAL: tl.constexpr,
):
    """`limit`, `start`, `stop` (int32 vectors) of query rows `i` of request b; nothing is visible unless `is_row`."""
    position = i + (kv_len - q_len)
    if Q_POSITIONS is not None:
        position = tl.load(Q_POSITIONS + q_start + i, mask=is_row, other=-1).to(tl.int32)
    limit = position + 1
    start = tl.zeros_like(limit)
    stop = start - 1
    if not CAUSAL:
        limit = start + kv_len
    elif NUM_CANDIDATES is not None:
        num_events = kv_len - tl.load(NUM_CANDIDATES + b).to(tl.int32) * group_size
        in_group = position >= num_events
        candidate = tl.maximum(position - num_events, 0) // group_size
        prefix = start + num_events
        if PREFIX_LEN is not None:
            first = tl.load(FIRST_CANDIDATE + b)
            prefix = tl.load(PREFIX_LEN + first + candidate, mask=is_row & in_group, other=0).to(tl.int32)
        limit = tl.where(in_group, prefix, limit)
        start = tl.where(in_group, num_events + candidate * group_size, start)
        stop = tl.where(in_group, position, stop)
    return tl.where(is_row, tl.minimum(limit, kv_len), 0), start, tl.where(is_row, stop, -1)


@triton.jit
def tile_ranges(limit, start, stop, is_row, kv_len):
    """Of a tile of rows: keys below the limits of all rows, of any row, and the range of the rows' own groups.

    Returns `lowest`, `highest`, `own_first`, `own_end`: j < lowest is below every limit, j >= highest below none, and
    own keys are in [own_first, own_end).
    """
    lowest = tl.min(tl.where(is_row, limit, kv_len))
    highest = tl.max(limit)
    own_end = tl.max(stop) + 1
    own_first = tl.min(tl.where(stop >= start, start, kv_len))
    highest = tl.maximum(highest, 0)
    # In a tile without a row every block needs a mask, and no key is loaded.
    return tl.minimum(tl.maximum(lowest, 0), highest), highest, own_first, own_end


@triton.jit
def block_ranges(lowest, highest, own_first, own_end, first_key, end_key, BN: tl.constexpr, ALL_MASKED: tl.constexpr):
    """Key blocks of [first_key, end_key) that a tile has to visit: first_key is a multiple of BN.

    Returns `first`, `full`, `prefix_end`, `own_block`, `own_block_end`: blocks [first, full) need no mask; blocks
    [full, prefix_end) and [own_block, own_block_end) do.
    """
    first = first_key // BN
    end = tl.maximum(tl.cdiv(end_key, BN), first)
    full = tl.minimum(tl.maximum(lowest // BN, first), end)
    if ALL_MASKED:
        full = first
    prefix_end = tl.minimum(tl.maximum(tl.cdiv(highest, BN), full), end)
    own_block = tl.minimum(tl.maximum(own_first // BN, prefix_end), end)
    own_block_end = tl.minimum(tl.maximum(tl.cdiv(own_end, BN), own_block), end)
    return first, full, prefix_end, own_block, own_block_end


@triton.jit
def are_visible(j, there, limit, start, stop, NUM_CANDIDATES):
    """(BM, BN): whether a row's bounds show it the key j, and the key is `there`. Called before the product of scores:
    after it, the bounds are kept in registers beside the product, and fp32 on sm_100 spills."""
    visible = j[None, :] < limit[:, None]
    if NUM_CANDIDATES is not None:
        visible = visible | ((j[None, :] >= start[:, None]) & (j[None, :] <= stop[:, None]))
    return visible & there[None, :]


@triton.jit
def inverse(total):
    """1 / total, and 0 for rows without a visible key."""
    return tl.where(total > 0.0, 1.0, 0.0) / tl.where(total > 0.0, total, 1.0)
