"""Triton prologue of the backward in fp32: the numbers of every query row that softmax's derivative needs.

The gradient of a score is `p * (dO v - delta)`. With delta = rowsum(O * dO), or with a largest score that another order
of summation left, a row with one visible key keeps the rounding of both where softmax's derivative is exactly zero.
Here one walk over the keys gives delta = sum_j e_j (dO v_j) / sum_j e_j, from the same products as in the backward: one
visible key has e = 1 and delta = dO v to the bit.

In 16 bits rounding weights and scores outweighs this, and the backward takes delta from O.

Legend: BM tile rows, BN keys of a block, HEAD head size, D the same padded to a power of two.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from dist_rec.kernels.cross_causal_attention.forward import NO_SCORE
from dist_rec.kernels.cross_causal_attention.tile_masks import (
    are_visible,
    block_ranges,
    inverse,
    row_bounds,
    tile_ranges,
)


@triton.jit(do_not_specialize=["group_size", "max_q_len"])
def row_statistics(
    Q,
    K,
    V,
    DO,
    PEAK,
    TOTAL,
    DELTA,
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
    GROUP: tl.constexpr,
    CAUSAL: tl.constexpr,
    PRECISION: tl.constexpr,
    HEAD: tl.constexpr,
    D: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """A slot is a tile of rows: writes their PEAK, the largest product q k (not scaled: the forward's is, and base 2),
    TOTAL, the sum of weights relative to it, and DELTA, all (sum_q, H) fp32; 0 and 0 for a row without a key."""
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
    place = i * (kv_heads * GROUP) + head
    q = tl.load(
        Q + i[:, None] * q_stride + (row % GROUP)[:, None] * q_head_stride + d[None, :], mask=rows_in_head, other=0.0
    )
    do = tl.load(DO + place[:, None] * HEAD + d[None, :], mask=rows_in_head, other=0.0)
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

    peak = tl.full([BM], NO_SCORE, tl.float32)
    total = tl.zeros([BM], tl.float32)
    center = tl.zeros([BM], tl.float32)
    spread = tl.zeros([BM], tl.float32)
    on = tl.arange(0, BN)
    step = tl.full((), BN, tl.int64)  # a number of keys times a stride may not fit 32 bits
    for block in tl.range(first, full, num_stages=STAGES):
        n = block * step
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=in_head[None, :], other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=in_head[None, :], other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        peak, total, center, spread = _absorb(s, dp, peak, total, center, spread, scale2)
    own_blocks = own_block_end - own_block
    for index in tl.range(0, prefix_end - full + own_blocks, num_stages=STAGES):
        block = tl.where(full + index < prefix_end, full + index, own_block + index - (prefix_end - full))
        n = block * step
        j = block * BN + on
        # Hidden keys are not loaded: they may hold anything, and zero weight times NaN would still be NaN.
        there = ((j < highest) | ((j >= own_first) & (j < own_end))) & (j < kv_len)
        if KEY_VALID is not None:
            there = there & (tl.load(KEY_VALID + kv_start + j, mask=there, other=0) != 0)
        load = there[:, None] & in_head[None, :]
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=load, other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=load, other=0.0)
        visible = are_visible(j, there, limit, start, stop, NUM_CANDIDATES)
        s = tl.where(visible, tl.dot(q, tl.trans(k), input_precision=PRECISION), float("-inf"))
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        peak, total, center, spread = _absorb(s, dp, peak, total, center, spread, scale2)

    delta = center + spread * inverse(total)
    # A broken promise of the caller must not go unnoticed: delta carries NaN into every gradient of the request.
    delta = tl.where(q_len > max_q_len, float("nan"), delta)
    tl.store(PEAK + rows_before + place, peak, mask=is_row)
    tl.store(TOTAL + rows_before + place, total, mask=is_row)
    tl.store(DELTA + rows_before + place, delta, mask=is_row)


@triton.jit
def _absorb(s, dp, peak, total, center, spread, scale2):
    """One block of the online softmax. `center` is dO v of the key with the largest score, `spread` the sum of
    e (dO v - center): where one key outweighs the others, `dO v - delta` cancels, and only the rounding of a sum that
    contains dO v itself would remain."""
    highest = tl.max(s, 1)
    new = tl.maximum(peak, highest)
    there = tl.max(tl.where(s == new[:, None], dp, float("-inf")), 1)
    moved = tl.where(highest > peak, there, center)
    e = weights(s, new, scale2, True)
    fade = tl.exp2((peak - new) * scale2)
    spread = (spread + total * (center - moved)) * fade + tl.sum(e * (dp - moved[:, None]), 1)
    return new, total * fade + tl.sum(e, 1), moved, spread


@triton.jit
def weights(s, peak, scale2, ANEW: tl.constexpr):
    """exp(scale * s) relative to the row's largest; ANEW: `peak` of `row_statistics`, otherwise of the forward."""
    if ANEW:
        # Subtracted first: the largest gets 2^0 = 1, also where the compiler fuses a product with a difference.
        e = tl.exp2((s - peak[:, None]) * scale2)
    else:
        e = tl.exp2(s * scale2 - peak[:, None])
    return e
