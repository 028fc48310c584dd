"""The kernel that copies unique rows to their positions, and adds rows of small tables.

Legend: U unique rows, N positions, K rows of a table.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl

from dist_rec.kernels.unique_ids.bit_packed_kernels import read_index


@triton.jit(do_not_specialize=["bits", "length", "num_rows", "num_0", "num_1", "num_2", "num_3"])
def gather(
    ROWS,
    WORDS,
    OUT,
    TABLE_0,
    TABLE_1,
    TABLE_2,
    TABLE_3,
    INDEX_0,
    INDEX_1,
    INDEX_2,
    INDEX_3,
    bits,
    length,
    num_rows,
    num_0,
    num_1,
    num_2,
    num_3,
    row_stride,
    GRAD,
    GELU: tl.constexpr,
    WIDTH: tl.constexpr,
    BN: tl.constexpr,
    BD: tl.constexpr,
) -> None:
    """BN positions times BD columns; an index outside of its rows adds nothing. Tables are contiguous, or None.

    With GELU the activation of the sum is written, or with GRAD (N, WIDTH) the gradient before the activation."""
    position = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    column = tl.program_id(1) * BD + tl.arange(0, BD)
    there = position < length
    index = read_index(WORDS, position, there, bits)
    total = _rows(ROWS, index, there, num_rows, row_stride, column, WIDTH)
    if TABLE_0 is not None:
        total += _term(TABLE_0, INDEX_0, position, there, num_0, column, WIDTH)
    if TABLE_1 is not None:
        total += _term(TABLE_1, INDEX_1, position, there, num_1, column, WIDTH)
    if TABLE_2 is not None:
        total += _term(TABLE_2, INDEX_2, position, there, num_2, column, WIDTH)
    if TABLE_3 is not None:
        total += _term(TABLE_3, INDEX_3, position, there, num_3, column, WIDTH)
    place = position[:, None] * WIDTH + column[None, :]
    inside = there[:, None] & (column < WIDTH)[None, :]
    if GELU:
        below = 0.5 + 0.5 * tl.erf(total * 0.7071067811865476)
        if GRAD is None:
            total = total * below
        else:
            slope = below + total * 0.3989422804014327 * tl.exp(-0.5 * total * total)
            total = slope * tl.load(GRAD + place, mask=inside, other=0.0).to(tl.float32)
    tl.store(OUT + place, total.to(OUT.dtype.element_ty), mask=inside)


@triton.jit
def _term(TABLE, INDEX, position, there, num_rows, column, WIDTH: tl.constexpr):
    index = tl.load(INDEX + position, mask=there, other=-1)
    return _rows(TABLE, index, there, num_rows, WIDTH, column, WIDTH)


@triton.jit
def _rows(ROWS, index, there, num_rows, row_stride, column, WIDTH: tl.constexpr):
    """Rows in fp32, zeros for an index outside of them."""
    there = there & (index >= 0) & (index < num_rows)
    place = ROWS + index.to(tl.int64)[:, None] * row_stride + column[None, :]
    return tl.load(place, mask=there[:, None] & (column < WIDTH)[None, :], other=0.0).to(tl.float32)
