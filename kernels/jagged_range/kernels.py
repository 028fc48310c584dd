"""The Triton kernel. Every row finds its sequence by itself.

Legend: B sequences, N rows; BN rows of a program.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_sequences", "num_rows", "halvings", "most"])
def write_range(
    FIRST,
    OFFSETS,
    OUT,
    num_sequences,
    num_rows,
    halvings,
    most,
    STEP: tl.constexpr,
    HAS_MOST: tl.constexpr,
    BN: tl.constexpr,
) -> None:
    """BN numbers of OUT (N,). `halvings` of B sequences leave one."""
    row = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    is_row = row < num_rows
    # The last sequence that begins at the row or before it: empty ones before it begin there too.
    low = tl.zeros([BN], tl.int32)
    high = low + num_sequences
    for _ in range(halvings):
        middle = (low + high) // 2
        begin = tl.load(OFFSETS + middle, mask=is_row & (middle < high), other=0).to(tl.int64)
        after = (begin <= row) & (middle < high)
        low = tl.where(after, middle, low)
        high = tl.where(after, high, middle)
    if STEP == 0:
        number = low.to(tl.int64)
        if FIRST is not None:
            number = tl.load(FIRST + low, mask=is_row, other=0).to(tl.int64)
    else:
        number = STEP * (row - tl.load(OFFSETS + low, mask=is_row, other=0).to(tl.int64))
        if FIRST is not None:
            number += tl.load(FIRST + low, mask=is_row, other=0).to(tl.int64)
    if HAS_MOST:
        number = tl.minimum(number, most)
    tl.store(OUT + row, number.to(OUT.dtype.element_ty), mask=is_row)
