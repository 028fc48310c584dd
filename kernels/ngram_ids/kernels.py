"""The Triton kernel: a tile of events by all heads, in registers.

Legend: B sequences, N events, M heads, O the longest n-gram; BN events and BM heads of a tile.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

import triton
import triton.language as tl


@triton.jit
def _shifted(x, BITS: tl.constexpr):
    """int64 shifted as if without sign."""
    return (x >> BITS) & ((1 << (64 - BITS)) - 1)  # pyright: ignore[reportOperatorIssue]


@triton.jit
def _mix(x):
    """The finalizer of splitmix64, whose factors are signed here."""
    x = (x ^ _shifted(x, 30)) * -4658895280553007687
    x = (x ^ _shifted(x, 27)) * -7723592293110705685
    return x ^ _shifted(x, 31)


@triton.jit(do_not_specialize=["num_sequences", "num_events", "halvings", "hidden", "gap"])
def hash_ngrams(
    VALUES,
    OFFSETS,
    HEADS,
    TIMES,
    OUT,
    num_sequences,
    num_events,
    halvings,
    hidden,
    gap,
    M: tl.constexpr,
    LONGEST: tl.constexpr,
    POLYNOMIAL: tl.constexpr,
    HAS_HIDDEN: tl.constexpr,
    BN: tl.constexpr,
    BM: tl.constexpr,
) -> None:
    """BN events of OUT (N, M). HEADS (M, 4 + LONGEST). `halvings` of B sequences leave one."""
    event = tl.program_id(0).to(tl.int64) * BN + tl.arange(0, BN)
    is_event = event < num_events
    # The last sequence that begins at the event or before it: empty ones before it begin there too.
    low = tl.zeros([BN], tl.int32)
    high = low + num_sequences
    for _ in range(halvings):
        middle = (low + high) // 2
        begin = tl.load(OFFSETS + middle, mask=is_event & (middle < high), other=0).to(tl.int64)
        after = (begin <= event) & (middle < high)
        low = tl.where(after, middle, low)
        high = tl.where(after, high, middle)
    begin = tl.load(OFFSETS + low, mask=is_event, other=0).to(tl.int64)

    head = tl.arange(0, BM)
    is_head = head < M
    numbers = HEADS + head * (4 + LONGEST)
    order = tl.load(numbers, mask=is_head, other=0)[None, :]
    rows = tl.load(numbers + 1, mask=is_head, other=1)[None, :]
    first = tl.load(numbers + 2, mask=is_head, other=0)[None, :]
    state = tl.zeros([BN, BM], tl.int64)
    if not POLYNOMIAL:
        state += tl.load(numbers + 3, mask=is_head, other=0)[None, :]

    reaches = is_event
    value = tl.load(VALUES + event, mask=is_event, other=0)
    for j in tl.static_range(LONGEST):
        if j > 0:
            reaches &= event - j >= begin
            if HAS_HIDDEN:
                reaches &= value != hidden
            if TIMES is not None:
                later = tl.load(TIMES + event - j + 1, mask=reaches, other=0).to(tl.int64)
                pause = later - tl.load(TIMES + event - j, mask=reaches, other=0).to(tl.int64)
                reaches &= tl.maximum(pause, -pause) <= gap
            value = tl.load(VALUES + event - j, mask=reaches, other=0)
            if HAS_HIDDEN:
                reaches &= value != hidden
        token = tl.where(reaches, value + 1, 0)[:, None]
        if POLYNOMIAL:  # powers of tokens that are too old for a head are 0
            power = tl.load(numbers + (4 + j), mask=is_head, other=0)[None, :]
            state = (state + token % rows * power) % rows
        else:
            state = tl.where(order > j, _mix(state ^ token), state)
    row = first + state if POLYNOMIAL else first + (_shifted(state, 32) * rows >> 32)
    tl.store(OUT + event[:, None] * M + head[None, :], row, mask=is_event[:, None] & is_head[None, :])
