"""Triton kernels of both directions: a row is one slot of one head, and walks over the slots of its group.

Rows of a tile are neighbours in memory, so that the slots of a group are read by one program and come from its cache
from the second row on. Products are sums over the head in registers, in fp32: groups are too small for a matmul unit.

Legend: M groups, K slots, H heads, D head size; rows are slots (M * K), BR of a tile; HEAD is D padded.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def attend_slots(
    QKV,
    REAL,
    OUT,
    LOG_SUM,
    num_rows,
    scale,
    K: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    HEAD: tl.constexpr,
    BR: tl.constexpr,
) -> None:
    """OUT (M, K, H, D) and LOG_SUM (M, K, H) fp32, the logarithm (base 2) of each row's sum; QKV is contiguous."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    head = tl.program_id(1)
    d = tl.arange(0, HEAD)
    is_row = row < num_rows
    there = is_row[:, None] & (d < D)[None, :]
    group = row // K * K
    q = tl.load(QKV + (row * 3 * H + head)[:, None] * D + d[None, :], mask=there, other=0.0).to(tl.float32)
    peak = tl.full([BR], -1.0e30, tl.float32)  # finite: before the first real slot equals are subtracted
    total = tl.zeros([BR], tl.float32)
    acc = tl.zeros([BR, HEAD], tl.float32)
    for j in range(K):
        slot = group + j
        real = is_row & (tl.load(REAL + slot, mask=is_row, other=0) != 0)
        load = real[:, None] & (d < D)[None, :]  # padding is not loaded: it may hold anything
        k = tl.load(QKV + ((slot * 3 + 1) * H + head)[:, None] * D + d[None, :], mask=load, other=0.0).to(tl.float32)
        v = tl.load(QKV + ((slot * 3 + 2) * H + head)[:, None] * D + d[None, :], mask=load, other=0.0).to(tl.float32)
        s = tl.where(real, tl.sum(q * k, 1) * (scale * 1.4426950408889634), -1.0e30)  # log2(e)
        new = tl.maximum(peak, s)
        fade, p = tl.exp2(peak - new), tl.where(real, tl.exp2(s - new), 0.0)
        acc = acc * fade[:, None] + p[:, None] * v
        total = total * fade + p
        peak = new
    seen = total > 0.0
    inverse = tl.where(seen, 1.0 / tl.where(seen, total, 1.0), 0.0)
    at = OUT + (row * H + head)[:, None] * D + d[None, :]
    tl.store(at, (acc * inverse[:, None]).to(OUT.dtype.element_ty), mask=there)
    # Without a real slot the weights exp2(s - log_sum) are not used: no slot is real in the backward either.
    tl.store(LOG_SUM + row * H + head, peak + tl.log2(tl.where(seen, total, 1.0)), mask=is_row)


@triton.jit(do_not_specialize=["num_rows"])
def attend_slots_backward(
    QKV,
    REAL,
    LOG_SUM,
    DELTA,
    GRAD,
    GRAD_QKV,
    num_rows,
    scale,
    K: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    HEAD: tl.constexpr,
    BR: tl.constexpr,
) -> None:
    """GRAD_QKV (M, K, 3, H, D) from GRAD (M, K, H, D), contiguous; DELTA (M, K, H) fp32 is the weights' mean of dO v.

    Each row is a query among the slots of its group, then a key and a value among its queries: no atomics."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    head = tl.program_id(1)
    d = tl.arange(0, HEAD)
    is_row = row < num_rows
    in_head = (d < D)[None, :]
    there = is_row[:, None] & in_head
    group = row // K * K
    real_row = is_row & (tl.load(REAL + row, mask=is_row, other=0) != 0)
    scale2 = scale * 1.4426950408889634  # log2(e)
    at = (row * 3 * H + head)[:, None] * D + d[None, :]
    q = tl.load(QKV + at, mask=there, other=0.0).to(tl.float32)
    k = tl.load(QKV + at + H * D, mask=real_row[:, None] & in_head, other=0.0).to(tl.float32)
    v = tl.load(QKV + at + 2 * H * D, mask=real_row[:, None] & in_head, other=0.0).to(tl.float32)
    do = tl.load(GRAD + (row * H + head)[:, None] * D + d[None, :], mask=there, other=0.0).to(tl.float32)
    log_sum = tl.load(LOG_SUM + row * H + head, mask=is_row, other=0.0)
    delta = tl.load(DELTA + row * H + head, mask=is_row, other=0.0)
    dq = tl.zeros([BR, HEAD], tl.float32)
    dk = tl.zeros([BR, HEAD], tl.float32)
    dv = tl.zeros([BR, HEAD], tl.float32)
    for j in range(K):
        slot = group + j
        real = is_row & (tl.load(REAL + slot, mask=is_row, other=0) != 0)
        load = real[:, None] & in_head
        other = (slot * 3 * H + head)[:, None] * D + d[None, :]
        k_j = tl.load(QKV + other + H * D, mask=load, other=0.0).to(tl.float32)
        v_j = tl.load(QKV + other + 2 * H * D, mask=load, other=0.0).to(tl.float32)
        p = tl.where(real, tl.exp2(tl.sum(q * k_j, 1) * scale2 - log_sum), 0.0)
        dq += (p * (tl.sum(do * v_j, 1) - delta))[:, None] * k_j
        # The same slot as a query of this row's key; padding asks too, and its output has a gradient of zero later.
        q_j = tl.load(QKV + other, mask=there, other=0.0).to(tl.float32)
        do_j = tl.load(GRAD + (slot * H + head)[:, None] * D + d[None, :], mask=there, other=0.0).to(tl.float32)
        log_sum_j = tl.load(LOG_SUM + slot * H + head, mask=is_row, other=0.0)
        delta_j = tl.load(DELTA + slot * H + head, mask=is_row, other=0.0)
        p_j = tl.where(real_row, tl.exp2(tl.sum(q_j * k, 1) * scale2 - log_sum_j), 0.0)
        dv += p_j[:, None] * do_j
        dk += (p_j * (tl.sum(do_j * v, 1) - delta_j))[:, None] * q_j
    kind = GRAD_QKV.dtype.element_ty
    tl.store(GRAD_QKV + at, (dq * scale).to(kind), mask=there)
    tl.store(GRAD_QKV + at + H * D, (dk * scale).to(kind), mask=there)
    tl.store(GRAD_QKV + at + 2 * H * D, dv.to(kind), mask=there)


@triton.jit(do_not_specialize=["num_rows"])
def slot_deltas(
    QKV,
    REAL,
    LOG_SUM,
    GRAD,
    DELTA,
    num_rows,
    scale,
    K: tl.constexpr,
    H: tl.constexpr,
    D: tl.constexpr,
    HEAD: tl.constexpr,
    BR: tl.constexpr,
) -> None:
    """DELTA (M, K, H) fp32: the weights' mean of dO v, from the same products as the backward's own.

    rowsum(O * dO) is the same number with the rounding of O in it, which a row with one real slot keeps."""
    row = tl.program_id(0).to(tl.int64) * BR + tl.arange(0, BR)
    head = tl.program_id(1)
    d = tl.arange(0, HEAD)
    is_row = row < num_rows
    in_head = (d < D)[None, :]
    there = is_row[:, None] & in_head
    group = row // K * K
    at = (row * 3 * H + head)[:, None] * D + d[None, :]
    q = tl.load(QKV + at, mask=there, other=0.0).to(tl.float32)
    do = tl.load(GRAD + (row * H + head)[:, None] * D + d[None, :], mask=there, other=0.0).to(tl.float32)
    log_sum = tl.load(LOG_SUM + row * H + head, mask=is_row, other=0.0)
    delta = tl.zeros([BR], tl.float32)
    total = tl.zeros([BR], tl.float32)
    for j in range(K):
        slot = group + j
        real = is_row & (tl.load(REAL + slot, mask=is_row, other=0) != 0)
        load = real[:, None] & in_head
        other = (slot * 3 * H + head)[:, None] * D + d[None, :]
        k_j = tl.load(QKV + other + H * D, mask=load, other=0.0).to(tl.float32)
        v_j = tl.load(QKV + other + 2 * H * D, mask=load, other=0.0).to(tl.float32)
        p = tl.where(real, tl.exp2(tl.sum(q * k_j, 1) * (scale * 1.4426950408889634) - log_sum), 0.0)
        delta += p * tl.sum(do * v_j, 1)
        total += p
    seen = total > 0.0
    tl.store(DELTA + row * H + head, tl.where(seen, delta / tl.where(seen, total, 1.0), 0.0), mask=is_row)
