"""Triton prologue of the backward in fp32: what softmax's derivative needs of every query row, from the keys themselves.

The gradient of a score is `p * (dO v - delta)`. With delta = rowsum(O * dO), or with a largest score that another order of
summation left, a row that sees one key keeps the rounding of both where softmax's derivative is exactly zero. Here one walk
over the keys gives delta = sum_j e_j (dO v_j) / sum_j e_j, from the same products that the backward forms again: one visible
key has e = 1 and delta = dO v to the bit.

In 16 bits rounding weights and scores outweighs this, and the backward takes delta from O.

Legend: BM tile rows, BN keys of a block, HEAD head size, D the same padded to a power of two.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from dist_rec.kernels.cross_causal_attention.forward import NOTHING_SEEN
from dist_rec.kernels.cross_causal_attention.masks import block_ranges, inverse, row_bounds, tile_ranges


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
    SEEN,
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
    """A slot is a tile of rows: writes their PEAK, the largest product q k (not scaled: the forward's is, and base 2), TOTAL,
    the sum of weights relative to it, and DELTA, all (sum_q, H) fp32; zero TOTAL and DELTA for a row that sees nothing."""
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
    ask = i < q_len
    d = tl.arange(0, D)
    in_head = d < HEAD
    rows_in_head = ask[:, None] & in_head[None, :]
    # Where a request starts may lie beyond 2^31 and goes into the pointer; places within a request fit 32 bits.
    Q += q_start * q_stride + (h * GROUP).to(tl.int64) * q_head_stride
    rows_before = q_start * (kv_heads * GROUP)
    DO += rows_before * HEAD
    place = i * (kv_heads * GROUP) + head
    q = tl.load(Q + i[:, None] * q_stride + (row % GROUP)[:, None] * q_head_stride + d[None, :], mask=rows_in_head, other=0.0)
    do = tl.load(DO + place[:, None] * HEAD + d[None, :], mask=rows_in_head, other=0.0)
    limit, start, stop = row_bounds(
        i, ask, b, q_start, q_len, kv_len, NUM_CANDIDATES, FIRST_CANDIDATE, SEEN, Q_POSITIONS, group_size, CAUSAL
    )
    lowest, highest, own_first, own_end = tile_ranges(limit, start, stop, ask, kv_len)
    first, full, seen_end, own_block, own_block_end = block_ranges(
        lowest, highest, own_first, own_end, 0, kv_len, BN, KEY_VALID is not None
    )
    K += kv_start * k_stride + h.to(tl.int64) * k_head_stride
    V += kv_start * v_stride + h.to(tl.int64) * v_head_stride
    scale2 = scale * 1.4426950408889634  # log2(e)

    peak = tl.full([BM], NOTHING_SEEN, tl.float32)
    total = tl.zeros([BM], tl.float32)
    center = tl.zeros([BM], tl.float32)
    spread = tl.zeros([BM], tl.float32)
    on = tl.arange(0, BN)
    step = tl.full((), BN, tl.int64)  # keys passed so far may lie beyond 32 bits once multiplied by a stride
    for block in tl.range(first, full, num_stages=STAGES):
        n = block * step
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=in_head[None, :], other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=in_head[None, :], other=0.0)
        s = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        peak, total, center, spread = _absorb(s, dp, peak, total, center, spread, scale2)
    own_blocks = own_block_end - own_block
    for index in tl.range(0, seen_end - full + own_blocks, num_stages=STAGES):
        block = tl.where(full + index < seen_end, full + index, own_block + index - (seen_end - full))
        n = block * step
        j = block * BN + on
        # Hidden keys are not loaded: they may hold anything, and zero weight times NaN would still be NaN.
        there = ((j < highest) | ((j >= own_first) & (j < own_end))) & (j < kv_len)
        if KEY_VALID is not None:
            there = there & (tl.load(KEY_VALID + kv_start + j, mask=there, other=0) != 0)
        load = there[:, None] & in_head[None, :]
        k = tl.load(K + n * k_stride + on[:, None] * k_stride + d[None, :], mask=load, other=0.0)
        v = tl.load(V + n * v_stride + on[:, None] * v_stride + d[None, :], mask=load, other=0.0)
        sees = j[None, :] < limit[:, None]
        if NUM_CANDIDATES is not None:
            sees = sees | ((j[None, :] >= start[:, None]) & (j[None, :] <= stop[:, None]))
        s = tl.where(sees & there[None, :], tl.dot(q, tl.trans(k), input_precision=PRECISION), float("-inf"))
        dp = tl.dot(do, tl.trans(v), input_precision=PRECISION)
        peak, total, center, spread = _absorb(s, dp, peak, total, center, spread, scale2)

    delta = center + spread * inverse(total)
    # A promise of the caller that does not hold must not pass unseen: delta carries NaN into every gradient of the request.
    delta = tl.where(q_len > max_q_len, float("nan"), delta)
    tl.store(PEAK + rows_before + place, peak, mask=ask)
    tl.store(TOTAL + rows_before + place, total, mask=ask)
    tl.store(DELTA + rows_before + place, delta, mask=ask)


@triton.jit
def _absorb(s, dp, peak, total, center, spread, scale2):
    """One block of the online softmax. `center` is dO v of the key with the largest score, `spread` the sum of
    e (dO v - center): where one key outweighs the others, `dO v - delta` cancels, and would be left with the rounding of a sum
    that holds dO v itself."""
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
    """exp(scale * s) relative to the row's largest; ANEW: `peak` is that of `row_statistics`, otherwise the forward's."""
    if ANEW:
        # Subtracted first: the largest gets 2^0 = 1, also where the compiler fuses a product with a difference.
        e = tl.exp2((s - peak[:, None]) * scale2)
    else:
        e = tl.exp2(s * scale2 - peak[:, None])
    return e
