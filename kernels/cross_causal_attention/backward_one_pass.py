"""Triton backward for few query rows: K and V are read once, dK and dV written once, in five matmuls without atomics.

One program holds **all** query rows of one request and key-value head: q, dO and the dQ accumulator stay on the chip,
and the keys are read block by block. A request's keys are one piece, or, with few requests on a large GPU, pieces of
fixed length; then each piece writes an fp32 part of dQ, and `sum_parts` adds the parts in order.

Legend: BM tile rows (at least all rows of a request), BN keys of a block, HEAD head size, D the same padded.
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
def backward_one_pass(
    Q,
    K,
    V,
    OUT,
    PEAK,
    TOTAL,
    DELTA,
    DO,
    DQ,
    DQ_PARTS,
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
    PIECE: tl.constexpr,
    ANEW: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Writes DK, DV (sum_kv, H_kv, HEAD) and DQ (sum_q, H, HEAD); OUT, DO, DQ are contiguous, and so are DK and DV, or
    with SHARED = 2 the tensor of which they are the halves of every row.

    ANEW: PEAK, TOTAL and DELTA are those of `row_statistics`; otherwise PEAK and TOTAL of the forward, delta from OUT.

    A slot of the work list is a whole request, or with PIECE > 0 a piece of PIECE of its keys; then requests of several
    pieces write DQ_PARTS (slots, H_kv, BM, HEAD) fp32 instead of DQ.
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
    first_key, end_key = 0, kv_len
    if PIECE:
        first_key = tl.load(TILE + slot) * PIECE
        end_key = tl.minimum(kv_len, first_key + PIECE)

    row = tl.arange(0, BM)
    i, head = row // GROUP, h * GROUP + row % GROUP
    is_row = i < q_len
    d = tl.arange(0, D)
    rows_in_head = is_row[:, None] & (d < HEAD)[None, :]
    # The start of a request may be beyond 2^31 and goes into the pointer; places within a request fit 32 bits.
    Q += q_start * q_stride + (h * GROUP).to(tl.int64) * q_head_stride
    rows_before = q_start * (kv_heads * GROUP)
    DO += rows_before * HEAD
    DQ += rows_before * HEAD
    PEAK += rows_before
    TOTAL += rows_before
    place = i * (kv_heads * GROUP) + head
    at = place[:, None] * HEAD + d[None, :]
    q = tl.load(
        Q + i[:, None] * q_stride + (row % GROUP)[:, None] * q_head_stride + d[None, :], mask=rows_in_head, other=0.0
    )
    do = tl.load(DO + at, mask=rows_in_head, other=0.0)
    if ANEW:
        delta = tl.load(DELTA + rows_before + place, mask=is_row, other=0.0)
    else:
        OUT += rows_before * HEAD
        out = tl.load(OUT + at, mask=rows_in_head, other=0.0)
        delta = tl.sum(do.to(tl.float32) * out.to(tl.float32), 1)
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
    first, full, _, _, _ = block_ranges(
        lowest, highest, own_first, own_end, first_key, end_key, BN, KEY_VALID is not None
    )
    K += kv_start * k_stride + h.to(tl.int64) * k_head_stride
    V += kv_start * v_stride + h.to(tl.int64) * v_head_stride
    DK += (kv_start * (kv_heads * SHARED) + h) * HEAD
    if SHARED == 2:
        DV = DK + kv_heads * HEAD  # one pointer instead of two: registers are short
    else:
        DV += (kv_start * kv_heads + h) * HEAD
    scale2 = scale * 1.4426950408889634

    dq = tl.zeros([BM, D], tl.float32)
    on = tl.arange(0, BN)
    step = tl.full((), BN, tl.int64)  # a number of keys times a stride may not fit 32 bits
    keys_in_head = (on >= 0)[:, None] & (d < HEAD)[None, :]
    for block in tl.range(first, full, num_stages=STAGES):
        n = block * step
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=keys_in_head, other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=keys_in_head, other=0.0)
        p = weights(tl.dot(q, tl.trans(k), input_precision=PRECISION), peak, scale2, ANEW) * norm[:, None]
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = _emit(p, ds, q, do, k, dq, DK, DV, n, on, d, kv_heads, keys_in_head, scale, HEAD, SHARED, PRECISION)
    # Every other key too, visible or hidden: its gradient has to be written.
    for block in tl.range(full, tl.cdiv(end_key, BN), num_stages=STAGES):
        n = block * step
        j = block * BN + on
        stored = (j < end_key)[:, None] & keys_in_head
        there = ((j < highest) | ((j >= own_first) & (j < own_end))) & (j < end_key)
        if KEY_VALID is not None:
            there = there & (tl.load(KEY_VALID + kv_start + j, mask=there, other=0) != 0)
        load = there[:, None] & keys_in_head
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=load, other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=load, other=0.0)
        visible = are_visible(j, there, limit, start, stop, NUM_CANDIDATES)
        s = tl.where(visible, tl.dot(q, tl.trans(k), input_precision=PRECISION), float("-inf"))
        p = weights(s, peak, scale2, ANEW) * norm[:, None]
        ds = p * (tl.dot(do, tl.trans(v), input_precision=PRECISION) - delta[:, None])
        dq = _emit(p, ds, q, do, k, dq, DK, DV, n, on, d, kv_heads, stored, scale, HEAD, SHARED, PRECISION)

    dq = dq * scale
    whole = rows_in_head
    if PIECE:
        DQ_PARTS += (slot.to(tl.int64) * kv_heads + h) * (BM * HEAD)
        tl.store(DQ_PARTS + row[:, None] * HEAD + d[None, :], dq, mask=rows_in_head & (kv_len > PIECE))
        whole = rows_in_head & (kv_len <= PIECE)
    tl.store(DQ + at, dq.to(DQ.dtype.element_ty), mask=whole)
    for first_row in range(BM, q_len * GROUP, BM):  # rows beyond the caller's promise: NaN, as in the forward
        row = first_row + tl.arange(0, BM)
        at = (row // GROUP * (kv_heads * GROUP) + h * GROUP + row % GROUP)[:, None] * HEAD + d[None, :]
        mask = (row < q_len * GROUP)[:, None] & (d < HEAD)[None, :]
        tl.store(DQ + at, tl.full([BM, D], float("nan"), DQ.dtype.element_ty), mask=mask)


@triton.jit
def _emit(
    p,
    ds,
    q,
    do,
    k,
    dq,
    DK,
    DV,
    n,
    on,
    d,
    kv_heads,
    stored,
    scale,
    HEAD: tl.constexpr,
    SHARED: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Stores dK and dV of one block of keys, (BN, D) each, and adds to dQ (BM, D) before its scale."""
    at = on[:, None] * (kv_heads * SHARED * HEAD) + d[None, :]
    skipped = n * (kv_heads * SHARED * HEAD)
    dv = tl.dot(tl.trans(p.to(do.dtype)), do, input_precision=PRECISION)
    tl.store(DV + skipped + at, dv.to(DV.dtype.element_ty), mask=stored)
    ds = ds.to(q.dtype)
    dk = tl.dot(tl.trans(ds), q, input_precision=PRECISION) * scale
    tl.store(DK + skipped + at, dk.to(DK.dtype.element_ty), mask=stored)
    return tl.dot(ds, k, dq, input_precision=PRECISION)


@triton.jit
def sum_parts(
    DQ,
    DQ_PARTS,
    Q_OFFSETS,
    KV_OFFSETS,
    FIRST,
    kv_heads,
    GROUP: tl.constexpr,
    PIECE: tl.constexpr,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
) -> None:
    """DQ of requests with several pieces: their parts added in order, in fp32."""
    program = tl.program_id(0)
    h = program % kv_heads
    b = program // kv_heads
    q_start = tl.load(Q_OFFSETS + b).to(tl.int64)
    q_len = (tl.load(Q_OFFSETS + b + 1) - q_start).to(tl.int32)
    kv_len = (tl.load(KV_OFFSETS + b + 1) - tl.load(KV_OFFSETS + b)).to(tl.int32)
    if kv_len <= PIECE:
        return
    row = tl.arange(0, BM)
    d = tl.arange(0, D)
    mask = (row < q_len * GROUP)[:, None] & (d < HEAD)[None, :]
    first = tl.load(FIRST + b).to(tl.int64)
    dq = tl.zeros([BM, D], tl.float32)
    for part in range(0, tl.cdiv(kv_len, PIECE)):
        skipped = ((first + part) * kv_heads + h) * (BM * HEAD)
        dq += tl.load(DQ_PARTS + skipped + row[:, None] * HEAD + d[None, :], mask=mask, other=0.0)
    place = row // GROUP * (kv_heads * GROUP) + h * GROUP + row % GROUP
    DQ += q_start * (kv_heads * GROUP * HEAD)
    tl.store(DQ + place[:, None] * HEAD + d[None, :], dq.to(DQ.dtype.element_ty), mask=mask)
