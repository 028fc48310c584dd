"""Tiles are powers of two that hold every column of a row, or a block of a wide one."""

import pytest

from dist_rec.kernels.gather_pool.tiles import LONG_PIECE, PIECE, combine_tile, gather_tile, piece_for, reduce_tile


@pytest.mark.parametrize("width", [1, 2, 3, 16, 24, 64, 100, 255, 256, 257, 1000])
def test_powers_of_two(width: int) -> None:
    for tile in (gather_tile(width), reduce_tile(width, 2), reduce_tile(width, 4), combine_tile(width)):
        assert all(size > 0 and size & (size - 1) == 0 for size in tile.values())
        assert min(width, 256) <= tile["BD"] < 2 * width or tile["BD"] == 256
        assert tile.get("BN", 1) * tile.get("BS", 1) * tile.get("LANES", 1) * tile["BD"] <= 2048


def test_a_few_rows_of_many_positions_have_long_pieces() -> None:
    assert piece_for(2_000_000) == piece_for(129) == PIECE
    assert piece_for(128) == piece_for(4) == piece_for(0) == LONG_PIECE
