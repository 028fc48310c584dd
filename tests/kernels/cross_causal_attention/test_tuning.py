"""Who gets which tile."""

from dataclasses import replace
from unittest import mock

import pytest
import torch

from dist_rec.kernels.cross_causal_attention import tuning
from dist_rec.kernels.cross_causal_attention.tile_table import Entry, Tile, statistics_table, tile_table

CPU = torch.device("cpu")


@pytest.mark.parametrize(("head", "padded"), [(1, 16), (16, 16), (17, 32), (24, 32), (64, 64), (65, 128), (256, 256)])
def test_heads_are_padded_to_a_power_of_two(head: int, padded: int) -> None:
    assert tuning.padded_head(head) == padded


@pytest.mark.parametrize(
    ("max_rows", "rows", "one_pass"),
    [
        (1, 16, 16),
        (16, 16, 16),
        (17, 32, 32),
        (64, 64, 64),
        (65, 128, 128),
        (128, 128, 128),
        (129, 128, None),
        (None, 128, None),
    ],
)
def test_rows_choose_the_tile(max_rows: int | None, rows: int, one_pass: int | None) -> None:
    """The one-pass backward needs the promise that one tile holds all rows of a request."""
    tiles = tuning.tiles_for(CPU, torch.float16, 64, max_rows)
    assert tiles.forward.rows == rows
    assert (tiles.one_pass and tiles.one_pass.rows) == one_pass


def test_a_missing_number_of_rows() -> None:
    """The forward then takes several smaller tiles, the backward two passes."""
    tile = Tile(16, 32, 4, 2)
    entry = Entry(forward={16: tile}, one_pass={16: tile}, queries=tile, keys=tile)
    assert tuning.tiles_of(entry, 100).forward.rows == 16
    assert tuning.tiles_of(entry, 100).one_pass is None
    wide = replace(entry, one_pass={16: tile, 128: replace(tile, rows=128)})
    assert [tuning.tiles_of(wide, rows).one_pass for rows in (16, 17, 128)] == [tile, *[wide.one_pass[128]] * 2]


def test_statistics_of_rows_take_the_shape_of_the_backward() -> None:
    """And its warps and blocks in flight, but for those that the table lists, which all stand before some backward."""
    for (architecture, bits), heads in tile_table().items():
        for head, entry in heads.items() if bits == 32 else ():
            backward = [*entry.one_pass.values(), entry.queries]
            found = [tuning.statistics_tile(architecture, head, tile) for tile in backward]
            assert [(tile.rows, tile.keys) for tile in found] == [(tile.rows, tile.keys) for tile in backward]
            listed = statistics_table()[architecture].get(head, ())
            assert set(listed) <= set(found) and set(found) <= {*listed, *backward}


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (10, 3), (12, 0)])
def test_every_supported_gpu_has_tiles(capability: tuple[int, int]) -> None:
    tuning.architecture.cache_clear()
    with mock.patch.object(torch.cuda, "get_device_capability", return_value=capability):
        for dtype in (torch.bfloat16, torch.float32):
            assert tuning.tiles_for(torch.device("cuda"), dtype, 64, 40).forward.rows <= 64
    tuning.architecture.cache_clear()


def test_an_old_gpu_is_refused() -> None:
    tuning.architecture.cache_clear()
    old = mock.patch.object(torch.cuda, "get_device_capability", return_value=(7, 5))
    with old, pytest.raises(RuntimeError, match=r"8\.0 or higher, got 7\.x"):
        tuning.architecture(torch.device("cuda"))
    tuning.architecture.cache_clear()


@pytest.mark.parametrize("rows", [tile for entry in tile_table()[90, 16].values() for tile in entry.one_pass])
def test_parts_of_dq_take_at_most_a_tenth_of_keys_and_values(rows: int) -> None:
    """Per piece and head size: rows fp32 numbers against two 16-bit numbers per key."""
    assert 4 * rows <= 0.1 * (2 * 2 * tuning.piece_keys(rows))
