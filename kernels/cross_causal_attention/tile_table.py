"""Tiles that compile for their architecture without a spilled register, with every option of the mask.

`python -m dist_rec.kernels.cross_causal_attention.aot` compiles every entry again and prints what it uses. Among
those that fit, the larger block of keys, then more blocks in flight, was taken. They are not tuned by time on a GPU.
"""

from dataclasses import dataclass


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


def _by_rows(*tiles: Tile) -> dict[int, Tile]:
    return {tile.rows: tile for tile in tiles}


# (architecture, bits of an element) -> head size -> tiles
TABLE: dict[tuple[int, int], dict[int, Entry]] = {
    (80, 16): {
        16: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 4, 2), Tile(64, 64, 8, 2), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 2),
        ),
        32: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 4, 2), Tile(64, 64, 8, 1), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 2),
        ),
        64: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 2), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 8, 2), Tile(128, 32, 8, 1)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 4, 1),
        ),
        128: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 8, 3), Tile(128, 32, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 8, 2), Tile(64, 32, 8, 2)),
            queries=Tile(64, 64, 8, 2),
            keys=Tile(64, 64, 8, 1),
        ),
        256: Entry(
            forward=_by_rows(Tile(16, 64, 8, 2), Tile(32, 64, 8, 2), Tile(64, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 64, 8, 1), Tile(32, 32, 8, 1)),
            queries=Tile(64, 32, 8, 1),
            keys=Tile(32, 32, 8, 2),
        ),
    },
    (80, 32): {
        16: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            queries=Tile(32, 32, 8, 2),
            keys=Tile(32, 32, 8, 2),
        ),
        32: Entry(
            forward=_by_rows(Tile(16, 32, 8, 1), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            queries=Tile(32, 32, 8, 2),
            keys=Tile(32, 32, 8, 2),
        ),
        64: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            queries=Tile(32, 32, 8, 2),
            keys=Tile(32, 32, 8, 2),
        ),
        128: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            one_pass=_by_rows(Tile(16, 16, 8, 2), Tile(32, 16, 8, 2)),
            queries=Tile(32, 32, 4, 2),
            keys=Tile(32, 32, 8, 1),
        ),
        256: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 1)),
            one_pass=_by_rows(),
            queries=Tile(16, 16, 4, 2),
            keys=Tile(16, 16, 4, 1),
        ),
    },
    (90, 16): {
        16: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 4, 2), Tile(64, 64, 8, 2), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 2),
        ),
        32: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 4, 2), Tile(64, 64, 8, 2), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 2),
        ),
        64: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 2), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 8, 2), Tile(64, 64, 8, 2), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 2),
        ),
        128: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 2), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 8, 2), Tile(32, 64, 8, 2), Tile(64, 32, 8, 2), Tile(128, 32, 8, 2)),
            queries=Tile(128, 64, 8, 1),
            keys=Tile(32, 64, 8, 2),
        ),
        256: Entry(
            forward=_by_rows(Tile(16, 64, 8, 3), Tile(32, 64, 8, 3), Tile(64, 32, 8, 3)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            queries=Tile(128, 32, 8, 2),
            keys=Tile(32, 64, 8, 1),
        ),
    },
    (90, 32): {
        16: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            queries=Tile(32, 32, 8, 2),
            keys=Tile(32, 32, 8, 2),
        ),
        32: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            queries=Tile(32, 16, 8, 2),
            keys=Tile(32, 16, 8, 2),
        ),
        64: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            queries=Tile(32, 32, 8, 2),
            keys=Tile(32, 32, 8, 1),
        ),
        128: Entry(
            forward=_by_rows(Tile(16, 32, 8, 1), Tile(32, 16, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            queries=Tile(32, 16, 8, 2),
            keys=Tile(32, 16, 8, 1),
        ),
        256: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            one_pass=_by_rows(Tile(16, 16, 8, 2)),
            queries=Tile(16, 16, 8, 2),
            keys=Tile(16, 16, 8, 1),
        ),
    },
    (100, 16): {
        16: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 8, 2), Tile(64, 64, 8, 2), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(32, 64, 8, 2),
        ),
        32: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 4, 2), Tile(64, 32, 8, 2), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 2),
        ),
        64: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 2), Tile(32, 64, 4, 2), Tile(64, 64, 8, 2), Tile(128, 64, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 2),
        ),
        128: Entry(
            forward=_by_rows(Tile(16, 64, 4, 3), Tile(32, 64, 4, 3), Tile(64, 64, 4, 3), Tile(128, 64, 8, 3)),
            one_pass=_by_rows(Tile(16, 64, 4, 1), Tile(32, 64, 8, 2), Tile(64, 64, 8, 2), Tile(128, 32, 8, 2)),
            queries=Tile(128, 64, 8, 2),
            keys=Tile(64, 64, 8, 1),
        ),
        256: Entry(
            forward=_by_rows(Tile(16, 64, 8, 3), Tile(32, 64, 8, 3), Tile(64, 64, 8, 3), Tile(128, 32, 8, 1)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 1), Tile(64, 64, 8, 1), Tile(128, 64, 8, 1)),
            queries=Tile(64, 64, 8, 2),
            keys=Tile(64, 64, 8, 1),
        ),
    },
    (100, 32): {
        16: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            queries=Tile(32, 32, 8, 2),
            keys=Tile(32, 32, 8, 2),
        ),
        32: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 1)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            queries=Tile(32, 32, 8, 2),
            keys=Tile(32, 32, 8, 2),
        ),
        64: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 32, 8, 2)),
            queries=Tile(32, 32, 8, 1),
            keys=Tile(32, 32, 8, 1),
        ),
        128: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            one_pass=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            queries=Tile(16, 16, 8, 2),
            keys=Tile(16, 16, 8, 2),
        ),
        256: Entry(
            forward=_by_rows(Tile(16, 32, 8, 2), Tile(32, 16, 8, 2)),
            one_pass=_by_rows(Tile(16, 16, 8, 2)),
            queries=Tile(16, 16, 8, 2),
            keys=Tile(16, 16, 8, 1),
        ),
    },
}

# The statistics of rows (in 32 bits) take the rows and keys of the backward that follows, so that both form the same
# products, and its warps and blocks in flight too, unless these spill. Here are the tiles that differ. Architecture ->
# head size -> tiles
STATISTICS: dict[int, dict[int, tuple[Tile, ...]]] = {
    80: {256: (Tile(16, 16, 8, 1),)},
    90: {16: (Tile(32, 32, 8, 1),), 128: (Tile(32, 16, 8, 1),)},
    100: {64: (Tile(32, 32, 8, 2),), 128: (Tile(16, 32, 8, 1),)},
}
