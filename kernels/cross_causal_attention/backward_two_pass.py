"""Triton backward for any number of query rows, deterministic: dQ by tiles of rows, then dK and dV by blocks of keys.

Seven matmuls and two readings of K and V, against five and one of `backward_one_pass`; no program holds all rows.

Legend: BM tile rows, BN keys of a block, HEAD head size, D the same padded, G query heads per key-value head.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl

from dist_rec.kernels.cross_causal_attention.row_statistics import weights
from dist_rec.kernels.cross_causal_attention.tile_masks import (
    are_visible,
    block_ranges,
    inverse,
    row_bounds,
    tile_ranges,
)


@triton.jit(do_not_specialize=["group_size"])
def backward_queries(
    Q,
    K,
    V,
    OUT,
    PEAK,
    TOTAL,
    DO,
    DELTA,
    DQ,
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
    GROUP: tl.constexpr,
    ANEW: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """A slot is a tile of rows: writes its DQ, and DELTA (sum_q, H) fp32 = rowsum(O * dO), which the second pass needs.

    ANEW: PEAK, TOTAL and DELTA are those of `row_statistics`, and DELTA is read, not written.
    """
    program = tl.program_id(0)
    h = program % kv_heads
    slot = program // kv_heads
    if slot >= tl.load(COUNT):
        return
    b = tl.load(REQUEST + slot)
    q_start, kv_start = tl.load(Q_OFFSETS + b).to(tl.int64), tl.load(KV_OFFSETS + b).to(tl.int64)
    q_len = (tl.load(Q_OFFSETS + b + 1) - q_start).to(tl.int32)
    kv_len = (tl.load(KV_OFFSETS + b + 1) - kv_start).to(tl.int32)
    row = tl.load(TILE + slot) * BM + tl.arange(0, BM)
    i, head = row // GROUP, h * GROUP + row % GROUP
    is_row = i < q_len
    d = tl.arange(0, D)
    in_head = d < HEAD
    rows_in_head = is_row[:, None] & in_head[None, :]
    # The start of a request may be beyond 2^31 and goes into the pointer; places within a request fit 32 bits.
    Q += q_start * q_stride + (h * GROUP).to(tl.int64) * q_head_stride
    rows_before = q_start * (kv_heads * GROUP)
    DO += rows_before * HEAD
    DQ += rows_before * HEAD
    PEAK += rows_before
    TOTAL += rows_before
    DELTA += rows_before
    place = i * (kv_heads * GROUP) + head
    at = place[:, None] * HEAD + d[None, :]
    q = tl.load(
        Q + i[:, None] * q_stride + (row % GROUP)[:, None] * q_head_stride + d[None, :], mask=rows_in_head, other=0.0
    )
    do = tl.load(DO + at, mask=rows_in_head, other=0.0)
    if ANEW:
        delta = tl.load(DELTA + place, mask=is_row, other=0.0)
    else:
        OUT += rows_before * HEAD
        out = tl.load(OUT + at, mask=rows_in_head, other=0.0)
        delta = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
        tl.store(DELTA + place, delta, mask=is_row)
    peak, total = tl.load(PEAK + place, mask=is_row, other=0.0), tl.load(TOTAL + place, mask=is_row, other=0.0)
    norm = inverse(total)
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
        lowest, highest, own_first, own_end, 0, kv_len, BN, KEY_VALID is not None
    )
    K += kv_start * k_stride + h.to(tl.int64) * k_head_stride
    V += kv_start * v_stride + h.to(tl.int64) * v_head_stride
    scale2 = scale * 1.4426950408889634  # log2(e)

    dq = tl.zeros([BM, D], tl.float32)
    on = tl.arange(0, BN)
    step = tl.full((), BN, tl.int64)  # a number of keys times a stride may not fit 32 bits
    for block in tl.range(first, full, num_stages=STAGES):
        n = block * step
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=in_head[None, :], other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=in_head[None, :], other=0.0)
        p = weights(tl.dot(q, tl.trans(k), input_precision=PRECISION), peak, scale2, ANEW) * norm[:, None]
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    own_blocks = own_block_end - own_block
    for index in tl.range(0, prefix_end - full + own_blocks, num_stages=STAGES):
        block = tl.where(full + index < prefix_end, full + index, own_block + index - (prefix_end - full))
        n = block * step
        j = block * BN + on
        there = ((j < highest) | ((j >= own_first) & (j < own_end))) & (j < kv_len)
        if KEY_VALID is not None:
            there = there & (tl.load(KEY_VALID + kv_start + j, mask=there, other=0) != 0)
        load = there[:, None] & in_head[None, :]
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=load, other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=load, other=0.0)
        visible = are_visible(j, there, limit, start, stop, NUM_CANDIDATES)
        s = tl.where(visible, tl.dot(q, tl.trans(k), input_precision=PRECISION), float("-inf"))
        p = weights(s, peak, scale2, ANEW) * norm[:, None]
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = tl.dot(ds.to(k.dtype), k, dq, input_precision=PRECISION)
    tl.store(DQ + at, (dq * scale).to(DQ.dtype.element_ty), mask=rows_in_head)


@triton.jit(do_not_specialize=["group_size"])
def backward_keys(
    Q,
    K,
    V,
    PEAK,
    TOTAL,
    DO,
    DELTA,
    DK,
    DV,
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
    GROUP: tl.constexpr,
    SHARED: tl.constexpr,
    ANEW: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """A slot is a block of keys: writes its DK and DV (sum_kv, H_kv, HEAD), sums over the rows that attend to it.
    With SHARED = 2 these are the halves of every row of one tensor."""
    program = tl.program_id(0)
    h = program % kv_heads
    slot = program // kv_heads
    if slot >= tl.load(COUNT):
        return
    b = tl.load(REQUEST + slot)
    q_start, kv_start = tl.load(Q_OFFSETS + b).to(tl.int64), tl.load(KV_OFFSETS + b).to(tl.int64)
    q_len = (tl.load(Q_OFFSETS + b + 1) - q_start).to(tl.int32)
    kv_len = (tl.load(KV_OFFSETS + b + 1) - kv_start).to(tl.int32)
    first_key = tl.load(TILE + slot) * BN
    end_key = tl.minimum(first_key + BN, kv_len)
    j = first_key + tl.arange(0, BN)
    d = tl.arange(0, D)
    in_head = d < HEAD
    there = j < kv_len
    if KEY_VALID is not None:
        there = there & (tl.load(KEY_VALID + kv_start + j, mask=there, other=0) != 0)
    load = there[:, None] & in_head[None, :]
    K += kv_start * k_stride + h.to(tl.int64) * k_head_stride
    V += kv_start * v_stride + h.to(tl.int64) * v_head_stride
    on, skipped = tl.arange(0, BN), first_key.to(tl.int64)
    k = tl.load(K + skipped * k_stride + on[:, None] * k_stride + d[None, :], mask=load, other=0.0)
    v = tl.load(V + skipped * v_stride + on[:, None] * v_stride + d[None, :], mask=load, other=0.0)

    # Query rows [begin, first_whole) may attend to a part of the block, rows [first_whole, end) attend to all of it.
    begin, first_whole, end = 0, q_len, q_len
    if not CAUSAL:
        if KEY_VALID is None:
            first_whole = 0
    elif Q_POSITIONS is None:
        begin = tl.minimum(tl.maximum(first_key - (kv_len - q_len), 0), q_len)  # the row at the block's oldest key
        num_events = kv_len
        if NUM_CANDIDATES is not None:
            num_events -= tl.load(NUM_CANDIDATES + b).to(tl.int32) * group_size
            if first_key >= num_events:  # keys of groups: hidden from all rows behind the last of these groups
                last_group = (end_key - 1 - num_events) // group_size
                end = tl.minimum(q_len, num_events + (last_group + 1) * group_size - (kv_len - q_len))
                end = tl.maximum(end, begin)
                first_whole = end
        if PREFIX_LEN is None and KEY_VALID is None:
            first_whole = tl.where(
                end_key <= num_events, tl.minimum(tl.maximum(end_key - 1 - (kv_len - q_len), 0), q_len), first_whole
            )
    first_tile = begin * GROUP // BM
    end_tile = tl.cdiv(end * GROUP, BM)
    full_tile = tl.maximum(tl.minimum(tl.cdiv(first_whole * GROUP, BM), end_tile), first_tile)
    scale2 = scale * 1.4426950408889634  # log2(e)

    dk = tl.zeros([BN, D], tl.float32)
    dv = tl.zeros([BN, D], tl.float32)
    Q += q_start * q_stride + (h * GROUP).to(tl.int64) * q_head_stride
    rows_before = q_start * (kv_heads * GROUP)
    DO += rows_before * HEAD
    PEAK += rows_before
    TOTAL += rows_before
    DELTA += rows_before
    for tile in tl.range(first_tile, full_tile, num_stages=STAGES):
        row = tile * BM + tl.arange(0, BM)
        i, head = row // GROUP, h * GROUP + row % GROUP
        is_row = i < q_len
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
        rows_in_head = is_row[:, None] & in_head[None, :]
        place = i * (kv_heads * GROUP) + head
        q = tl.load(
            Q + i[:, None] * q_stride + (row % GROUP)[:, None] * q_head_stride + d[None, :],
            mask=rows_in_head,
            other=0.0,
        )
        do = tl.load(DO + place[:, None] * HEAD + d[None, :], mask=rows_in_head, other=0.0)
        peak, total = tl.load(PEAK + place, mask=is_row, other=0.0), tl.load(TOTAL + place, mask=is_row, other=0.0)
        delta = tl.load(DELTA + place, mask=is_row, other=0.0)
        visible = are_visible(j, there, limit, start, stop, NUM_CANDIDATES)
        s = tl.where(visible, tl.dot(q, tl.trans(k), input_precision=PRECISION), float("-inf"))
        dk, dv = _gather_rows(s, q, do, v, peak, total, delta, dk, dv, scale2, ANEW, PRECISION)
    for tile in tl.range(full_tile, end_tile, num_stages=STAGES):
        row = tile * BM + tl.arange(0, BM)
        i, head = row // GROUP, h * GROUP + row % GROUP
        is_row = i < q_len
        rows_in_head = is_row[:, None] & in_head[None, :]
        place = i * (kv_heads * GROUP) + head
        q = tl.load(
            Q + i[:, None] * q_stride + (row % GROUP)[:, None] * q_head_stride + d[None, :],
            mask=rows_in_head,
            other=0.0,
        )
        do = tl.load(DO + place[:, None] * HEAD + d[None, :], mask=rows_in_head, other=0.0)
        peak, total = tl.load(PEAK + place, mask=is_row, other=0.0), tl.load(TOTAL + place, mask=is_row, other=0.0)
        delta = tl.load(DELTA + place, mask=is_row, other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dk, dv = _gather_rows(s, q, do, v, peak, total, delta, dk, dv, scale2, ANEW, PRECISION)
    at = on[:, None] * (kv_heads * SHARED * HEAD) + d[None, :]
    DK += ((kv_start + skipped) * (kv_heads * SHARED) + h) * HEAD
    if SHARED == 2:
        DV = DK + kv_heads * HEAD
    else:
        DV += ((kv_start + skipped) * kv_heads + h) * HEAD
    stored = (j < kv_len)[:, None] & in_head[None, :]
    tl.store(DK + at, (dk * scale).to(DK.dtype.element_ty), mask=stored)
    tl.store(DV + at, dv.to(DV.dtype.element_ty), mask=stored)


@triton.jit
def _gather_rows(s, q, do, v, peak, total, delta, dk, dv, scale2, ANEW: tl.constexpr, PRECISION: tl.constexpr):
    """Adds one tile of rows to dK (before its scale) and dV of the block."""
    p = weights(s, peak, scale2, ANEW) * inverse(total)[:, None]
    dv = tl.dot(tl.trans(p.to(do.dtype)), do, dv, input_precision=PRECISION)
    ds = (p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])).to(q.dtype)
    return tl.dot(tl.trans(ds), q, dk, input_precision=PRECISION), dv
