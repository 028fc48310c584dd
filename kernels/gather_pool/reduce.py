"""The kernels that reduce segments of rows, to their sum or mean or to the largest of each column. They serve

- the backward of an expansion: a segment is the positions that share a unique row (ORDER), a source row is a position;
- the forward of a pool: a segment is a bag, a source row is the unique row of a position (WORDS);
- the backward of a pool: segments as in the first, a source row is the bag of a position (BAG_IDS).

A segment is cut, from its own beginning, into pieces of PIECE places. The first piece of each segment has a slot, and
so has each place q = PIECE, 2 PIECE, ... of all: the slot of the piece that begins in [q, q + PIECE) and is not the
first of its segment. There is at most one, and it belongs to the segment that holds q, so a binary search finds it. A
segment of one piece is written at once. A longer one writes a part per piece, and `combine_parts` adds the parts in
order: no atomics, and the result depends on nothing but the segment itself.

Legend: S segments, N places, R source rows, D width.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false, reportGeneralTypeIssues=false

import triton
import triton.language as tl

from dist_rec.kernels.unique_ids.bit_packed_kernels import read_index

NOWHERE = tl.constexpr(2**31 - 1)  # larger than every position


@triton.jit(do_not_specialize=["bits", "segments", "slots", "num_sources"])
def reduce_pieces(
    SOURCE,
    OFFSETS,
    STARTS,
    ORDER,
    WORDS,
    BAG_IDS,
    BAG_OFFSETS,
    WINNER,
    OUT,
    OUT_AT,
    PARTS,
    PARTS_AT,
    bits,
    segments,
    slots,
    num_sources,
    source_stride,
    MEAN: tl.constexpr,
    LARGEST: tl.constexpr,
    PIECE: tl.constexpr,
    WIDTH: tl.constexpr,
    BS: tl.constexpr,
    LANES: tl.constexpr,
    BD: tl.constexpr,
) -> None:
    """BS pieces side by side, LANES places of each at a time, BD columns.

    - SOURCE (R, D), OFFSETS (S + 1,), STARTS from `search_starts`; OUT (S, D), PARTS fp32
    - ORDER (N,) or None: the position at each place of the segments, else places are positions
    - WORDS or BAG_IDS (N,) or neither: the source row of a position, else positions are source rows; none outside [0,
      R)
    - BAG_OFFSETS (R + 1,) or None: source rows are divided by the length of their bag
    - WINNER (R, D) or None: the only position that counts, in each column
    - OUT_AT, PARTS_AT: with LARGEST, the position that won, -1 in an empty segment
    """
    slot = tl.program_id(0).to(tl.int64) * BS + tl.arange(0, BS)
    column = tl.program_id(1) * BD + tl.arange(0, BD)
    segment, piece, begin, end = _piece(OFFSETS, STARTS, slot, segments, slots, PIECE)
    length = end - begin
    first = begin + piece * PIECE
    here = tl.maximum(tl.minimum(length - piece * PIECE, PIECE), 0)
    inside = (column < WIDTH)[None, None, :]
    lane = tl.arange(0, LANES)
    total = tl.full([BS, LANES, BD], float("-inf") if LARGEST else 0.0, tl.float32)
    at = tl.full([BS, LANES, BD], NOWHERE, tl.int32)
    for step in range(0, tl.max(here).to(tl.int32), LANES):
        place = step + lane
        there = place[None, :] < here[:, None]
        position = first[:, None] + place[None, :]
        if ORDER is not None:
            position = tl.load(ORDER + position, mask=there, other=0).to(tl.int64)
        source = position
        if WORDS is not None:
            source = read_index(WORDS, position, there, bits).to(tl.int64)
        if BAG_IDS is not None:
            source = tl.load(BAG_IDS + position, mask=there, other=-1).to(tl.int64)
        there = there & (source >= 0) & (source < num_sources)
        mask = there[:, :, None] & inside
        row = tl.load(SOURCE + source[:, :, None] * source_stride + column[None, None, :], mask=mask, other=0.0).to(
            tl.float32
        )
        if BAG_OFFSETS is not None:
            bag_end = tl.load(BAG_OFFSETS + source + 1, mask=there, other=1)
            row = row / (bag_end - tl.load(BAG_OFFSETS + source, mask=there, other=0)).to(tl.float32)[:, :, None]
        if WINNER is not None:
            won = tl.load(WINNER + source[:, :, None] * WIDTH + column[None, None, :], mask=mask, other=-1)
            row = tl.where(won == position[:, :, None], row, 0.0)
        if LARGEST:
            better = mask & _is_better(row, total, at)
            total = tl.where(better, row, total)
            at = tl.where(better, position.to(tl.int32)[:, :, None], at)
        else:
            total += row
    value, winner = _join(total, at, 1, LARGEST)
    row_of_part = 2 * (begin // PIECE + piece) + (piece > 0)
    whole = (segment >= 0) & (length <= PIECE)
    part = (here > 0) & (length > PIECE)
    if MEAN:
        value = tl.where(whole[:, None], value / tl.maximum(length, 1).to(tl.float32)[:, None], value)
    inside = (column < WIDTH)[None, :]
    out = segment[:, None] * WIDTH + column[None, :]
    tl.store(OUT + out, _finished(value, winner, LARGEST).to(OUT.dtype.element_ty), mask=whole[:, None] & inside)
    out_part = row_of_part[:, None] * WIDTH + column[None, :]
    tl.store(PARTS + out_part, value, mask=part[:, None] & inside)
    if LARGEST:
        tl.store(OUT_AT + out, tl.where(winner == NOWHERE, -1, winner), mask=whole[:, None] & inside)
        tl.store(PARTS_AT + out_part, winner, mask=part[:, None] & inside)


@triton.jit(do_not_specialize=["segments", "slots"])
def combine_parts(
    OFFSETS,
    STARTS,
    OUT,
    OUT_AT,
    PARTS,
    PARTS_AT,
    segments,
    slots,
    MEAN: tl.constexpr,
    LARGEST: tl.constexpr,
    PIECE: tl.constexpr,
    WIDTH: tl.constexpr,
    BK: tl.constexpr,
    LANES: tl.constexpr,
    BD: tl.constexpr,
) -> None:
    """Joins the parts of every segment of more than one piece. Each such segment holds the first slot after its
    beginning, so a program searches BK slots and joins the segments found there one by one, LANES parts at a time."""
    slot = 1 + tl.program_id(0).to(tl.int64) * BK + tl.arange(0, BK)
    column = tl.program_id(1) * BD + tl.arange(0, BD)
    inside = (column < WIDTH)[None, :]
    segment, begin, end = _segment_at(OFFSETS, STARTS, slot, segments, slots)
    long = (end - begin > PIECE) & (begin // PIECE == slot - 1)
    lane = tl.arange(0, LANES)
    last = tl.full((), 0, tl.int64)
    for _ in range(0, tl.sum(long.to(tl.int32))):
        last = tl.min(tl.where(long & (slot > last), slot, 2**62))
        length = tl.sum(tl.where(slot == last, end - begin, 0))
        total = tl.full([LANES, BD], float("-inf") if LARGEST else 0.0, tl.float32)
        at = tl.full([LANES, BD], NOWHERE, tl.int32)
        for step in range(0, tl.cdiv(length, PIECE).to(tl.int32), LANES):
            piece = (step + lane).to(tl.int64)
            mask = (piece * PIECE < length)[:, None] & inside
            place = (2 * (last - 1 + piece) + (piece > 0))[:, None] * WIDTH + column[None, :]
            part = tl.load(PARTS + place, mask=mask, other=0.0)
            if LARGEST:
                part_at = tl.load(PARTS_AT + place, mask=mask, other=NOWHERE)
                better = (part_at != NOWHERE) & _is_better(part, total, at)
                total = tl.where(better, part, total)
                at = tl.where(better, part_at, at)
            else:
                total += part
        value, winner = _join(total, at, 0, LARGEST)
        if MEAN:
            value = value / length.to(tl.float32)
        out = tl.sum(tl.where(slot == last, segment, 0)) * WIDTH + column
        tl.store(OUT + out, _finished(value, winner, LARGEST).to(OUT.dtype.element_ty), mask=column < WIDTH)
        if LARGEST:
            tl.store(OUT_AT + out, tl.where(winner == NOWHERE, -1, winner), mask=column < WIDTH)


@triton.jit
def _piece(OFFSETS, STARTS, slot, segments, slots, PIECE: tl.constexpr):
    """Segment of each slot, number of the piece in it, and where the segment begins and ends; -1 and an empty one if
    the slot has no piece. The segment is -1, too, unless the piece is the first: one slot writes the segment."""
    is_first = slot < segments
    begin = tl.load(OFFSETS + slot, mask=is_first, other=0).to(tl.int64)
    end = tl.load(OFFSETS + slot + 1, mask=is_first, other=0).to(tl.int64)
    later = slot - segments
    _, begin_later, end_later = _segment_at(OFFSETS, STARTS, tl.where(is_first, -1, later), segments, slots)
    piece_later = later - begin_later // PIECE
    # A segment that begins at the slot's place or after has its first piece there, which is another slot's.
    has = (piece_later > 0) & (begin_later + piece_later * PIECE < end_later)
    begin = tl.where(is_first, begin, tl.where(has, begin_later, 0))
    end = tl.where(is_first, end, tl.where(has, end_later, 0))
    return tl.where(is_first, slot, -1), tl.where(has & (slot >= segments), piece_later, 0), begin, end


@triton.jit
def _segment_at(OFFSETS, STARTS, slot, segments, slots):
    """The segment that holds place slot * PIECE, its beginning and end; all 0 if there is none."""
    there = (slot >= 0) & (slot < slots)
    segment = tl.load(STARTS + slot, mask=there, other=0).to(tl.int64) - 1
    there = there & (segment >= 0) & (segment < segments)
    begin = tl.load(OFFSETS + segment, mask=there, other=0).to(tl.int64)
    end = tl.load(OFFSETS + segment + 1, mask=there, other=0).to(tl.int64)
    return tl.where(there, segment, 0), begin, end


@triton.jit
def _is_better(value, best, at):
    """The first value of a lane, a larger one, or the first that is not a number."""
    return (at == NOWHERE) | (value > best) | ((value != value) & (best == best))


@triton.jit
def _join(total, at, AXIS: tl.constexpr, LARGEST: tl.constexpr):
    """Lanes to one: their sum, or the largest and the first position that has it."""
    if LARGEST:
        # What is not a number beats every number, infinity too.
        wrong = (total != total).to(tl.int32)
        any_wrong = tl.max(wrong, AXIS)
        total = tl.where(wrong > 0, float("inf"), total)
        value = tl.max(total, AXIS)
        wins = (total == tl.expand_dims(value, AXIS)) & (wrong == tl.expand_dims(any_wrong, AXIS))
        at = tl.min(tl.where(wins, at, NOWHERE), AXIS)
        return tl.where(any_wrong > 0, float("nan"), value), at
    else:
        return tl.sum(total, AXIS), tl.min(at, AXIS)


@triton.jit
def _finished(value, winner, LARGEST: tl.constexpr):
    if LARGEST:
        return tl.where(winner == NOWHERE, 0.0, value)
    else:
        return value
