"""The table is whole and its tiles are what the kernels can take."""

import itertools

import pytest

from dist_rec.kernels.cross_causal_attention.tile_table import Entry, Tile, tile_table
from dist_rec.kernels.cross_causal_attention.tuning import ROW_BUCKETS, SPLIT_KEYS, piece_keys


def _tiles(entry: Entry) -> list[Tile]:
    return [*entry.forward.values(), *entry.one_pass.values(), entry.queries, entry.keys]


def test_every_architecture_has_every_head() -> None:
    assert set(tile_table()) == set(itertools.product((80, 90, 100), (16, 32)))
    assert all(list(heads) == [16, 32, 64, 128, 256] for heads in tile_table().values())


@pytest.mark.parametrize("key", tile_table(), ids=str)
def test_tiles_fit_the_kernels(key: tuple[int, int]) -> None:
    """Rows and keys are powers of two of at least 16 (the smallest matmul), and pieces of keys are whole blocks."""
    for entry in tile_table()[key].values():
        assert all(rows == tile.rows for rows, tile in [*entry.forward.items(), *entry.one_pass.items()])
        assert set(entry.one_pass) <= set(ROW_BUCKETS) and min(entry.forward) == ROW_BUCKETS[0]
        for tile in _tiles(entry):
            assert tile.rows in ROW_BUCKETS and tile.keys in (16, 32, 64, 128) and tile.warps in (1, 2, 4, 8)
        assert all(SPLIT_KEYS % tile.keys == 0 for tile in entry.forward.values())
        assert all(piece_keys(tile.rows) % tile.keys == 0 for tile in entry.one_pass.values())


def test_both_passes_of_fp32_have_tiles_of_one_shape() -> None:
    """They form the scores that the statistics of rows hold, and arithmetic may round by the shape of a tile."""
    for (architecture, bits), heads in tile_table().items():
        for head, entry in heads.items() if bits == 32 else ():
            first, second = ((tile.rows, tile.keys) for tile in (entry.queries, entry.keys))
            assert first == second, (architecture, head)
