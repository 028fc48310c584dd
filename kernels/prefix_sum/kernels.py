"""Triton kernels of both directions. No atomics: each sum is one program's, in a fixed order.

Legend: B sequences, N rows, C prefixes, W width; BN rows and BW columns of a tile.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["row_stride"])
def sum_prefix(
    ROWS,
    OUT,
    OFFSETS,
    SEQUENCE,
    PREFIX_LEN,
    row_stride,
    WIDTH: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
) -> None:
    """One prefix and BW columns of OUT (C, W) fp32. SEQUENCE (C,) is the sequence of each prefix.

    Without PREFIX_LEN the prefixes are the whole sequences. Tiles begin at the start of the sequence, so that what
    comes after a prefix does not move its additions."""
    c = tl.program_id(0).to(tl.int64)
    b = c
    if PREFIX_LEN is not None:
        b = tl.load(SEQUENCE + c).to(tl.int64)
    begin, end = tl.load(OFFSETS + b).to(tl.int64), tl.load(OFFSETS + b + 1).to(tl.int64)
    length = (end - begin).to(tl.int32)
    if PREFIX_LEN is not None:
        length = tl.minimum(length, tl.load(PREFIX_LEN + c).to(tl.int32))
    column = tl.program_id(1) * BW + tl.arange(0, BW)
    ROWS += begin * row_stride
    step = tl.full((), BN, tl.int64)  # a number of rows times a stride may not fit 32 bits
    on = tl.arange(0, BN)
    total = tl.zeros([BW], tl.float32)
    for tile in range(0, tl.cdiv(length, BN)):
        there = (tile * BN + on < length)[:, None] & (column < WIDTH)[None, :]
        at = ROWS + tile * step * row_stride + on[:, None] * row_stride + column[None, :]
        total += tl.sum(tl.load(at, mask=there, other=0.0).to(tl.float32), 0)
    tl.store(OUT + c * WIDTH + column, total, mask=column < WIDTH)


@triton.jit(do_not_specialize=["num_rows"])
def sum_prefix_backward(
    GRAD,
    GRAD_ROWS,
    OFFSETS,
    SEQUENCE,
    PREFIX_OFFSETS,
    PREFIX_LEN,
    num_rows,
    WIDTH: tl.constexpr,
    BN: tl.constexpr,
    BW: tl.constexpr,
) -> None:
    """BN rows and BW columns of GRAD_ROWS (N, W): the sum of GRAD (C, W) fp32 over the prefixes that hold the row.

    SEQUENCE (N,) is the sequence of each row. Without PREFIX_LEN a row is in one sum, that of its sequence."""
    row = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    column = tl.program_id(1) * BW + tl.arange(0, BW)
    is_row = row < num_rows
    in_width = (column < WIDTH)[None, :]
    b = tl.load(SEQUENCE + row, mask=is_row, other=0).to(tl.int64)
    if PREFIX_LEN is None:
        total = tl.load(GRAD + b[:, None] * WIDTH + column[None, :], mask=is_row[:, None] & in_width, other=0.0)
    else:
        position = row - tl.load(OFFSETS + b, mask=is_row, other=0)
        first = tl.load(PREFIX_OFFSETS + b, mask=is_row, other=0).to(tl.int64)
        count = tl.load(PREFIX_OFFSETS + b + 1, mask=is_row, other=0).to(tl.int64) - first
        total = tl.zeros([BN, BW], tl.float32)
        for i in range(0, tl.max(count, 0)):
            of_sequence = is_row & (i < count)
            length = tl.load(PREFIX_LEN + first + i, mask=of_sequence, other=0)
            holds = of_sequence & (position < length)
            at = GRAD + (first + i)[:, None] * WIDTH + column[None, :]
            total += tl.load(at, mask=holds[:, None] & in_width, other=0.0)
    at = GRAD_ROWS + row[:, None] * WIDTH + column[None, :]
    tl.store(at, total.to(GRAD_ROWS.dtype.element_ty), mask=is_row[:, None] & in_width)
