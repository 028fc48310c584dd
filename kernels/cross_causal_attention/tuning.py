"""The tiles of a call, by architecture, element size, head size and the promised number of query rows.

Nothing is tried at run time and no length of the batch is part of the key, so every rank and every batch takes the same
tiles, and a request's result does not depend on the other requests of its batch. `tile_table.py` has the tiles.
"""

import functools
from dataclasses import dataclass

import torch

from dist_rec.kernels.cross_causal_attention.tile_table import Entry, Tile, statistics_table, tile_table

SPLIT_KEYS = 1024  # forward: keys of one piece, where the keys are split
ROW_BUCKETS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Tiles:
    """Tiles of one call; `one_pass` is None where no program can hold all rows of a request."""

    forward: Tile
    one_pass: Tile | None
    queries: Tile
    keys: Tile


def tiles_for(device: torch.device, dtype: torch.dtype, head: int, max_rows: int | None) -> Tiles:
    """`max_rows`: query rows of a request times query heads per key-value head, at most; None without a promise."""
    entry = tile_table()[architecture(device), dtype.itemsize * 8][padded_head(head)]
    return tiles_of(entry, max_rows)


def tiles_of(entry: Entry, max_rows: int | None) -> Tiles:
    """The smallest tile for all rows, else the largest: in the forward a request may have several tiles."""
    rows = max_rows or ROW_BUCKETS[-1]
    bucket = next((b for b in ROW_BUCKETS if rows <= b), ROW_BUCKETS[-1])
    forward = entry.forward[max(b for b in entry.forward if b <= bucket)]
    holding = [] if max_rows is None else [b for b in entry.one_pass if max_rows <= b]
    return Tiles(forward, entry.one_pass[min(holding)] if holding else None, entry.queries, entry.keys)


def statistics_tile(architecture: int, head: int, backward: Tile) -> Tile:
    """Of the statistics of rows before a backward with this tile; `head` is padded."""
    others = statistics_table()[architecture].get(head, ())
    return next((tile for tile in others if (tile.rows, tile.keys) == (backward.rows, backward.keys)), backward)


def padded_head(head: int) -> int:
    """Head size as the kernels hold it: the next power of two, at least 16."""
    return max(16, 1 << (head - 1).bit_length())


@functools.cache
def architecture(device: torch.device) -> int:
    """The part of the table for a GPU: 80 for 8.x and 12.x, 90, or 100. The interpreter takes 90."""
    if device.type != "cuda":
        return 90
    major, _ = torch.cuda.get_device_capability(device)
    if major < 8:
        raise RuntimeError(f"the fused attention kernel needs compute capability 8.0 or higher, got {major}.x")
    return {9: 90, 10: 100, 11: 100}.get(major, 80)


def piece_keys(rows: int) -> int:
    """Keys of a piece in the one-pass backward: its fp32 part of dQ is at most a tenth of its K and V in bf16."""
    return max(512, 12 * rows)
