"""What tiles of rows visit, against the mask that cases.py writes down a second time."""

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dist_rec.kernels.cross_causal_attention.tile_masks import block_ranges, inverse, row_bounds, tile_ranges
from tests.kernels.cross_causal_attention.cases import DEVICE, Case, Request, cases, make_case, visible_keys_of

ROWS, KEYS = 8, 4  # rows of a tile, keys of a block: small, so that little problems have several of both


@triton.jit
def _bounds_of_tiles(
    BOUNDS,
    RANGES,
    BLOCKS,
    Q_OFFSETS,
    KV_OFFSETS,
    NUM_CANDIDATES,
    FIRST_CANDIDATE,
    PREFIX_LEN,
    Q_POSITIONS,
    group_size,
    tiles,
    piece,
    CAUSAL: tl.constexpr,
    ALL_MASKED: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
):
    """One program per request, tile of rows and piece of keys writes what tile_masks.py says, a line each."""
    program = tl.program_id(0)
    number = program % 2
    tile = program // 2 % tiles
    b = program // 2 // tiles
    q_start = tl.load(Q_OFFSETS + b)
    q_len = tl.load(Q_OFFSETS + b + 1) - q_start
    kv_len = tl.load(KV_OFFSETS + b + 1) - tl.load(KV_OFFSETS + b)
    i = tile * BM + tl.arange(0, BM)
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
    lowest, highest, own_first, own_end = tile_ranges(limit, start, stop, is_row, kv_len)
    first_key = number * piece
    end_key = tl.minimum(kv_len, first_key + piece)
    first, full, prefix_end, own_block, own_block_end = block_ranges(
        lowest, highest, own_first, own_end, first_key, end_key, BN, ALL_MASKED
    )
    at = program * 3 * BM + tl.arange(0, BM)
    tl.store(BOUNDS + at, limit)
    tl.store(BOUNDS + at + BM, start)
    tl.store(BOUNDS + at + 2 * BM, stop)
    tl.store(RANGES + program * 4, lowest)
    tl.store(RANGES + program * 4 + 1, highest)
    tl.store(RANGES + program * 4 + 2, own_first)
    tl.store(RANGES + program * 4 + 3, own_end)
    tl.store(BLOCKS + program * 5, first)
    tl.store(BLOCKS + program * 5 + 1, full)
    tl.store(BLOCKS + program * 5 + 2, prefix_end)
    tl.store(BLOCKS + program * 5 + 3, own_block)
    tl.store(BLOCKS + program * 5 + 4, own_block_end)


@triton.jit
def _invert(TOTAL, OUT, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(OUT + at, inverse(tl.load(TOTAL + at)))


@dataclass(frozen=True)
class Tile:
    """What the kernels know of one tile of rows of request b, meeting the keys [first_key, end_key), and what is
    true."""

    visible: list[set[int]]  # to every row of the tile
    bounds: list[list[int]]  # limit, start, stop
    ranges: list[int]
    blocks: list[int]
    first_key: int
    end_key: int

    def visited(self) -> list[int]:
        first, full, prefix_end, own_block, own_block_end = self.blocks
        return [*range(first, full), *range(full, prefix_end), *range(own_block, own_block_end)]


def _tiles(case: Case, *, piece: int, all_masked: bool = False) -> list[Tile]:
    """Every tile of rows, with each of the two pieces of `piece` keys."""
    case = case.on(DEVICE)
    batch, tiles = len(case.q_offsets) - 1, -(-case.most_rows // ROWS)
    programs = 2 * batch * tiles
    bounds, ranges, blocks = (
        torch.empty(size, dtype=torch.int32, device=DEVICE)
        for size in ((programs, 3, ROWS), (programs, 4), (programs, 5))
    )
    if programs:
        counts, prefix_len = case.options.get("num_candidates"), case.options.get("prefix_len")
        first = None if prefix_len is None or counts is None else counts.cumsum(0) - counts
        arguments: tuple[Any, ...] = (
            case.q_offsets,
            case.kv_offsets,
            counts,
            first,
            prefix_len,
            case.options.get("q_positions"),
        )
        sizes = (case.options.get("group_size", 1), tiles, piece)
        _bounds_of_tiles[(programs,)](
            bounds,
            ranges,
            blocks,
            *arguments,
            *sizes,
            CAUSAL=case.options["causal"],
            ALL_MASKED=all_masked,
            BM=ROWS,
            BN=KEYS,
        )
    found = []
    for program in range(programs):
        number, tile, b = program % 2, program // 2 % tiles, program // 2 // tiles
        first_q, end_q = case.q_offsets[b : b + 2].tolist()
        num_keys = int(case.kv_offsets[b + 1] - case.kv_offsets[b])
        rows = range(first_q + tile * ROWS, min(end_q, first_q + (tile + 1) * ROWS))
        visible_to = [set(visible_keys_of(case, b, row)) for row in rows]
        places = (number * piece, min(num_keys, (number + 1) * piece))
        found.append(
            Tile(visible_to, bounds[program].tolist(), ranges[program].tolist(), blocks[program].tolist(), *places)
        )
    return found


def _without_key_valid(case: Case) -> Case:
    """The kernels apply `key_valid` on top of the bounds."""
    return replace(case, options={name: value for name, value in case.options.items() if name != "key_valid"})


@settings(max_examples=25, deadline=None)
@given(case=cases().map(_without_key_valid), piece=st.sampled_from((8, 1024)))
@example(case=make_case([Request(3, 3, 13), Request(9, 2, 17)], "prefix", group_size=3, positions=True), piece=8)
@example(case=make_case([Request(16, 2, 11), Request(0, 1, 9)], "groups", group_size=2), piece=1024)
def test_tiles_see_what_their_rows_see(case: Case, piece: int) -> None:
    for tile in _tiles(case, piece=piece):
        _assert_bounds_are_the_mask_of_a_row(tile)
        _assert_ranges_hold_what_any_row_sees(tile)
        _assert_blocks_cover_every_visible_key_once(tile)
        _assert_blocks_without_a_mask_are_visible_to_every_row(tile)


def _assert_bounds_are_the_mask_of_a_row(tile: Tile) -> None:
    bounds = list(zip(*tile.bounds))
    for (limit, start, stop), visible in zip(bounds, tile.visible):
        assert {*range(limit), *range(start, stop + 1)} == visible
    for limit, start, stop in bounds[len(tile.visible) :]:
        assert limit == 0 and stop < start, "nothing is visible behind the last row"


def _assert_ranges_hold_what_any_row_sees(tile: Tile) -> None:
    lowest, highest, own_first, own_end = tile.ranges
    assert all(visible >= set(range(lowest)) for visible in tile.visible)
    assert set().union(*tile.visible) <= {*range(highest), *range(own_first, own_end)}


def _assert_blocks_cover_every_visible_key_once(tile: Tile) -> None:
    keys, visited = range(tile.first_key, tile.end_key), tile.visited()
    assert len(visited) == len(set(visited))
    assert all(KEYS * block in keys for block in visited), "blocks lie within the piece"
    assert {key // KEYS for key in set().union(*tile.visible) if key in keys} <= set(visited)


def _assert_blocks_without_a_mask_are_visible_to_every_row(tile: Tile) -> None:
    first, full = tile.blocks[:2]
    whole = set(range(first * KEYS, full * KEYS))
    assert all(visible >= whole for visible in tile.visible)
    assert not tile.visible or not whole or max(whole) < tile.end_key


def test_most_blocks_of_a_long_history_need_no_mask() -> None:
    """18 blocks of events; the rows stand on the last 8 keys."""
    (tile, _) = _tiles(make_case([Request(72, 0, 8)], "plain"), piece=1024)
    assert tile.blocks == [0, 16, 18, 18, 18]


def test_groups_of_others_are_skipped() -> None:
    """Rows of the last 2 of 10 groups of 4 visit the 2 blocks of events and their own 2 blocks."""
    (tile, _) = _tiles(make_case([Request(8, 10, 8)], "groups", group_size=4), piece=1024)
    assert tile.visited() == [0, 1, 10, 11]


def test_hidden_keys_leave_no_block_without_a_mask() -> None:
    for tile in _tiles(make_case([Request(72, 0, 8)], "plain"), piece=40, all_masked=True):
        first, full = tile.blocks[:2]
        assert first == full and len(tile.visited()) > 0


@pytest.mark.filterwarnings("ignore:divide by zero:RuntimeWarning")
def test_inverse_of_nothing_is_nothing() -> None:
    total = torch.tensor([0.0, 0.5, 1.0, 3.0], device=DEVICE)
    out = torch.empty_like(total)
    _invert[(1,)](total, out, N=4)
    assert torch.equal(out, torch.tensor([0.0, 2.0, 1.0, 1.0 / 3.0], device=DEVICE))
