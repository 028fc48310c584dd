"""Tiles that compile for their architecture without a spilled register, with every option of the mask: tile_table.json.

`python -m benchmarks.aot.attention` compiles every entry again and prints what it uses. Among the tiles that fit, the
larger block of keys, then more blocks in flight, was taken. They are not tuned by time on a GPU.
"""

import functools
import json
from dataclasses import dataclass
from importlib.resources import files
from typing import Any


@dataclass(frozen=True)
class Tile:
    """`rows` and `keys` of a tile, warps of a program, blocks in flight."""

    rows: int
    keys: int
    warps: int
    stages: int


@dataclass(frozen=True)
class Entry:
    """Tiles for one head size. `forward` and `one_pass` by their rows; `one_pass` lacks rows beyond one program."""

    forward: dict[int, Tile]
    one_pass: dict[int, Tile]
    queries: Tile
    keys: Tile


@functools.cache
def tile_table() -> dict[tuple[int, int], dict[int, Entry]]:
    """(architecture, bits of an element) -> head size -> tiles"""
    found: dict[tuple[int, int], dict[int, Entry]] = {}
    for key, heads in _read()["tiles"].items():
        architecture, bits = map(int, key.split("/"))
        found[architecture, bits] = {int(head): _entry(tiles) for head, tiles in heads.items()}
    return found


@functools.cache
def statistics_table() -> dict[int, dict[int, tuple[Tile, ...]]]:
    """Architecture -> head size -> tiles of the statistics of rows (in 32 bits) that differ from those of the backward.

    The statistics take the rows and keys of the backward that follows, so that both form the same products, and its
    warps and blocks in flight too, unless these spill.
    """
    found = _read()["statistics"].items()
    return {
        int(key): {int(h): tuple(Tile(*tile) for tile in tiles) for h, tiles in heads.items()} for key, heads in found
    }


def _read() -> dict[str, Any]:
    return json.loads((files(__package__ or "") / "tile_table.json").read_text())


def _entry(tiles: dict[str, Any]) -> Entry:
    forward, one_pass = ({tile[0]: Tile(*tile) for tile in tiles[name]} for name in ("forward", "one_pass"))
    return Entry(forward, one_pass, queries=Tile(*tiles["queries"]), keys=Tile(*tiles["keys"]))
