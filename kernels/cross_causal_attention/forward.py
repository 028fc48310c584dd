"""Triton forward: one program holds a tile of query rows of one request and one key-value head and reads the keys once.

Rows of a tile: with G query heads per key-value head, tile row r is query row r // G and head r % G of the group, so
that K and V are read once for all G heads. Softmax runs online in base 2 (`exp2`), in fp32.

With few tiles on a large GPU the keys are split into pieces of fixed length; `combine` joins the pieces. The length is
fixed, not the number of pieces, so that a request's result does not depend on the lengths of the others.

Legend: BM tile rows, BN keys of a block, HEAD head size, D head size padded to a power of two.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from dist_rec.kernels.cross_causal_attention.tile_masks import (
    are_visible,
    block_ranges,
    inverse,
    row_bounds,
    tile_ranges,
)

# Finite, so that a row before its first visible key subtracts equals and gets exp2(0) * 0, not NaN.
NO_SCORE = tl.constexpr(-1.0e30)


@triton.jit(do_not_specialize=["group_size", "max_q_len", "row_tiles"])
def forward(
    Q,
    K,
    V,
    OUT,
    PEAK,
    TOTAL,
    Q_OFFSETS,
    KV_OFFSETS,
    REQUEST,
    TILE,
    COUNT,
    NUM_CANDIDATES,
    FIRST_CANDIDATE,
    PREFIX_LEN,
    Q_POSITIONS,
    KEY_VALID,
    q_stride,
    q_head_stride,
    k_stride,
    k_head_stride,
    v_stride,
    v_head_stride,
    kv_heads,
    group_size,
    scale,
    max_q_len,
    row_tiles,
    GROUP: tl.constexpr,
    SPLIT: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Writes OUT (sum_q, H, HEAD) and (sum_q, H) fp32 PEAK, the largest score (base 2), and TOTAL, the sum of weights
    relative to it. With SPLIT > 0 they are pieces (slots, row_tiles * BM, H_kv[, HEAD]), OUT not divided by TOTAL.

    A slot of the work list is a tile of rows, or with SPLIT a piece of SPLIT keys, once per tile of rows (`row_tiles`).
    """
    program = tl.program_id(0)
    h = program % kv_heads
    slot = program // kv_heads
    tile = slot
    if SPLIT:
        tile = slot % row_tiles
        slot = slot // row_tiles
    if slot >= tl.load(COUNT):
        return
    b = tl.load(REQUEST + slot)
    part = tl.load(TILE + slot)
    q_start, kv_start = tl.load(Q_OFFSETS + b).to(tl.int64), tl.load(KV_OFFSETS + b).to(tl.int64)
    q_len = (tl.load(Q_OFFSETS + b + 1) - q_start).to(tl.int32)
    kv_len = (tl.load(KV_OFFSETS + b + 1) - kv_start).to(tl.int32)
    first_key, end_key = 0, kv_len
    if SPLIT:
        first_key = part * SPLIT
        end_key = tl.minimum(kv_len, first_key + SPLIT)
        if tile * BM >= q_len * GROUP:
            return
    else:
        tile = part

    row = tile * BM + tl.arange(0, BM)
    i, head = row // GROUP, h * GROUP + row % GROUP
    is_row = i < q_len
    d = tl.arange(0, D)
    in_head = d < HEAD
    # The start of a request may be beyond 2^31 and goes into the pointer; places within a request fit 32 bits.
    Q += q_start * q_stride + (h * GROUP).to(tl.int64) * q_head_stride
    rows_in_head = is_row[:, None] & in_head[None, :]
    q = tl.load(
        Q + i[:, None] * q_stride + (row % GROUP)[:, None] * q_head_stride + d[None, :], mask=rows_in_head, other=0.0
    )
    limit, start, stop = row_bounds(
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
        CAUSAL,
    )
    lowest, highest, own_first, own_end = tile_ranges(limit, start, stop, is_row, kv_len)
    first, full, prefix_end, own_block, own_block_end = block_ranges(
        lowest, highest, own_first, own_end, first_key, end_key, BN, KEY_VALID is not None
    )
    K += kv_start * k_stride + h.to(tl.int64) * k_head_stride
    V += kv_start * v_stride + h.to(tl.int64) * v_head_stride
    scale2 = scale * 1.4426950408889634  # log2(e): exp(x) = exp2(x * log2(e))

    peak = tl.full([BM], NO_SCORE, tl.float32)
    total = tl.zeros([BM], tl.float32)
    acc = tl.zeros([BM, D], tl.float32)
    on = tl.arange(0, BN)
    step = tl.full((), BN, tl.int64)  # a number of keys times a stride may not fit 32 bits
    for block in tl.range(first, full, num_stages=STAGES):
        n = block * step
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=in_head[None, :], other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=in_head[None, :], other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        acc, total, peak = _absorb(s, v, acc, total, peak, scale2, PRECISION)
    own_blocks = own_block_end - own_block
    for index in tl.range(0, prefix_end - full + own_blocks, num_stages=STAGES):
        block = tl.where(full + index < prefix_end, full + index, own_block + index - (prefix_end - full))
        n = block * step
        j = block * BN + on
        # Hidden keys are not loaded: they may hold anything, and zero weight times NaN would still be NaN.
        there = ((j < highest) | ((j >= own_first) & (j < own_end))) & (j < end_key)
        if KEY_VALID is not None:
            there = there & (tl.load(KEY_VALID + kv_start + j, mask=there, other=0) != 0)
        load = there[:, None] & in_head[None, :]
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=load, other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=load, other=0.0)
        visible = are_visible(j, there, limit, start, stop, NUM_CANDIDATES)
        s = tl.where(visible, tl.dot(q, tl.trans(k), input_precision=PRECISION), float("-inf"))
        acc, total, peak = _absorb(s, v, acc, total, peak, scale2, PRECISION)

    out = acc
    if SPLIT:
        piece = row * kv_heads + h
        skipped = slot.to(tl.int64) * (row_tiles * BM * kv_heads)
    else:
        out = out * inverse(total)[:, None]
        piece = i * (kv_heads * GROUP) + head
        skipped = q_start * (kv_heads * GROUP)
    # A broken promise of the caller must not go unnoticed: the rows become NaN.
    out = tl.where(q_len > max_q_len, float("nan"), out)
    at = piece[:, None] * HEAD + d[None, :]
    tl.store(OUT + skipped * HEAD + at, out.to(OUT.dtype.element_ty), mask=rows_in_head)
    tl.store(PEAK + skipped + piece, peak, mask=is_row)
    tl.store(TOTAL + skipped + piece, total, mask=is_row)


@triton.jit
def _absorb(s, v, acc, total, peak, scale2, PRECISION: tl.constexpr):
    """One block of the online softmax."""
    new = tl.maximum(peak, tl.max(s, 1) * scale2)
    p = tl.exp2(s * scale2 - new[:, None])
    fade = tl.exp2(peak - new)
    acc = tl.dot(p.to(v.dtype), v, acc * fade[:, None], input_precision=PRECISION)
    return acc, total * fade + tl.sum(p, 1), new


@triton.jit(do_not_specialize=["row_tiles"])
def combine(
    PIECE_OUT,
    PIECE_PEAK,
    PIECE_TOTAL,
    OUT,
    PEAK,
    TOTAL,
    Q_OFFSETS,
    KV_OFFSETS,
    FIRST,
    kv_heads,
    row_tiles,
    GROUP: tl.constexpr,
    SPLIT: tl.constexpr,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    """Joins the pieces of a request in their order: sums of weighted values, each relative to its own peak, in fp32."""
    program = tl.program_id(0)
    h = program % kv_heads
    blocks = row_tiles * (BM // ROWS)
    block = program // kv_heads % blocks
    b = program // kv_heads // blocks
    q_start = tl.load(Q_OFFSETS + b).to(tl.int64)
    q_len = (tl.load(Q_OFFSETS + b + 1) - q_start).to(tl.int32)
    kv_len = (tl.load(KV_OFFSETS + b + 1) - tl.load(KV_OFFSETS + b)).to(tl.int32)
    if block * ROWS >= q_len * GROUP:
        return
    row = block * ROWS + tl.arange(0, ROWS)
    is_row = row < q_len * GROUP
    d = tl.arange(0, D)
    in_head = d < HEAD
    first = tl.load(FIRST + b).to(tl.int64)
    peak = tl.full([ROWS], NO_SCORE, tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    acc = tl.zeros([ROWS, D], tl.float32)
    for part in range(0, tl.cdiv(kv_len, SPLIT)):
        piece = row * kv_heads + h
        skipped = (first + part) * (row_tiles * BM * kv_heads)
        at = PIECE_OUT + skipped * HEAD + piece[:, None] * HEAD + d[None, :]
        part_acc = tl.load(at, mask=is_row[:, None] & in_head[None, :], other=0.0)
        part_peak = tl.load(PIECE_PEAK + skipped + piece, mask=is_row, other=NO_SCORE)
        part_total = tl.load(PIECE_TOTAL + skipped + piece, mask=is_row, other=0.0)
        new = tl.maximum(peak, part_peak)
        fade, weight = tl.exp2(peak - new), tl.exp2(part_peak - new)
        acc = acc * fade[:, None] + part_acc * weight[:, None]
        total = total * fade + part_total * weight
        peak = new
    out = acc * inverse(total)[:, None]
    place = row // GROUP * (kv_heads * GROUP) + h * GROUP + row % GROUP
    skipped = q_start * (kv_heads * GROUP)
    at = place[:, None] * HEAD + d[None, :]
    tl.store(OUT + skipped * HEAD + at, out.to(OUT.dtype.element_ty), mask=is_row[:, None] & in_head[None, :])
    tl.store(PEAK + skipped + place, peak, mask=is_row)
    tl.store(TOTAL + skipped + place, total, mask=is_row)
    if block == blocks - 1:  # rows beyond the caller's promise have no result: NaN like the request's other rows
        for beyond in range(blocks, tl.cdiv(q_len * GROUP, ROWS)):
            row = beyond * ROWS + tl.arange(0, ROWS)
            place = row // GROUP * (kv_heads * GROUP) + h * GROUP + row % GROUP
            at = place[:, None] * HEAD + d[None, :]
            mask = (row < q_len * GROUP)[:, None] & in_head[None, :]
            tl.store(OUT + skipped * HEAD + at, tl.full([ROWS, D], float("nan"), OUT.dtype.element_ty), mask=mask)
