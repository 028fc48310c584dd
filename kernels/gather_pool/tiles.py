"""Sizes of the kernels' tiles. Not tuned on a GPU: a thread keeps 16 numbers at most, and nothing spills
(benchmarks/aot)."""

PIECE = 64  # positions of a piece of a segment; room for parts is 2 / PIECE of all rows, in fp32
LONG_PIECE = 512  # where all positions are in a few segments, whose parts one program adds up
_FEW_SEGMENTS = 128
CHECKED_SLOTS = 32  # slots that one program of `combine_parts` looks at
_NUMBERS = 2048  # of a tile
_COLUMNS = 256  # of a tile at most; a wider row takes several programs


def _columns(width: int) -> int:
    return min(1 << (width - 1).bit_length(), _COLUMNS)


def piece_for(segments: int) -> int:
    """For sums over the positions of a row: tables of a few rows (times, kinds of action) share all positions. The
    number of positions does not matter: it would make two kernels of one table."""
    return LONG_PIECE if segments <= _FEW_SEGMENTS else PIECE


def gather_tile(width: int) -> dict[str, int]:
    return {"BN": _NUMBERS // _columns(width), "BD": _columns(width), "num_warps": 4}


def reduce_tile(width: int, element_bytes: int) -> dict[str, int]:
    """Four places of a piece at a time: most segments are short, and more would leave lanes empty. In 32 bits a thread
    takes as many bytes as in 16. With as many numbers, or half the pieces, some builds of sm_80 spill."""
    warps = 8 if element_bytes > 2 else 4
    return {"BS": _NUMBERS // (4 * _columns(width)), "LANES": 4, "BD": _columns(width), "num_warps": warps}


def combine_tile(width: int) -> dict[str, int]:
    return {"BK": CHECKED_SLOTS, "LANES": _NUMBERS // _columns(width), "BD": _columns(width), "num_warps": 4}
