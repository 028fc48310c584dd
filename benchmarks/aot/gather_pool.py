"""Compiles every kernel without a GPU and prints what the machine code uses.

    python -m benchmarks.aot.gather_pool [--arch 80 90] [--bits 16 32] [--width 16 64 100 128 256]

Exits with 1 if one spills registers or needs more shared memory than its architecture has.
"""

import argparse
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.aot.compile import SHARED_LIMIT, Used, compile_for, report
from dist_rec.kernels.gather_pool.gather import gather
from dist_rec.kernels.gather_pool.reduce import combine_parts, reduce_pieces
from dist_rec.kernels.gather_pool.tiles import PIECE, combine_tile, gather_tile, reduce_tile

WIDTHS = (16, 64, 100, 128, 256)
_TERMS = tuple(f"{name}_{t}" for name in ("TABLE", "INDEX") for t in range(4))
_SOURCES = ("ORDER", "WORDS", "BAG_IDS", "BAG_OFFSETS", "WINNER")
# Of each launch: the kernel, its optional pointers, which of them are given, and whether it takes the largest.
USES: dict[str, tuple[Any, tuple[str, ...], tuple[str, ...], bool]] = {
    "expand": (gather, (*_TERMS, "GRAD"), (), False),
    "expand_add, 4 terms": (gather, (*_TERMS, "GRAD"), _TERMS, False),
    "expand_add, GELU": (gather, (*_TERMS, "GRAD"), _TERMS, False),
    "backward of the GELU": (gather, (*_TERMS, "GRAD"), (*_TERMS, "GRAD"), False),
    "backward of expand": (reduce_pieces, _SOURCES, ("ORDER",), False),
    "mean": (reduce_pieces, _SOURCES, ("WORDS",), False),
    "max": (reduce_pieces, _SOURCES, ("WORDS",), True),
    "backward of mean": (reduce_pieces, _SOURCES, ("ORDER", "BAG_IDS", "BAG_OFFSETS"), False),
    "backward of max": (reduce_pieces, _SOURCES, ("ORDER", "BAG_IDS", "WINNER"), False),
    "parts of a sum": (combine_parts, (), (), False),
    "parts of a max": (combine_parts, (), (), True),
}
_FLOATS = ("ROWS", "SOURCE", "OUT", "GRAD", *_TERMS[:4])


@dataclass(frozen=True)
class Build:
    """One kernel as one operator launches it; `width` D."""

    architecture: int
    bits: int
    width: int
    use: str

    def __str__(self) -> str:
        return f"sm_{self.architecture} {self.bits} bits, width {self.width}: {self.use}"

    def complaints(self, used: Used) -> list[str]:
        return used.complaints(self.architecture)

    def compile(self) -> Used:
        kernel, optional, given, largest = USES[self.use]
        reducing = reduce_tile(self.width, self.bits // 8)
        tile = {gather: gather_tile(self.width), reduce_pieces: reducing, combine_parts: combine_tile(self.width)}[
            kernel
        ]
        constants: dict[str, Any] = dict.fromkeys(name for name in optional if name not in given)
        constants |= {"MEAN": not largest, "LARGEST": largest, "PIECE": PIECE, "WIDTH": self.width}
        constants["GELU"] = "GELU" in self.use
        constants |= {name: value for name, value in tile.items() if name != "num_warps"}
        constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
        types = {name: "*i32" if name.isupper() else "i32" for name in kernel.arg_names if name not in constants}
        types |= dict.fromkeys((name for name in _FLOATS if name in types), "*bf16" if self.bits == 16 else "*fp32")
        types |= {"PARTS": "*fp32"} if "PARTS" in types else {}
        return compile_for(kernel, types, constants, self.architecture, warps=tile["num_warps"])


def builds(architecture: int, bits: int, widths: Iterable[int] = WIDTHS) -> Iterator[Build]:
    """Everything that a call can launch, each with the pointers that make it largest."""
    return (Build(architecture, bits, width, use) for use in USES for width in widths)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=sorted(SHARED_LIMIT))
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32], choices=[16, 32])
    parser.add_argument("--width", type=int, nargs="+", default=WIDTHS)
    options = parser.parse_args()
    report(build for arch in options.arch for bits in options.bits for build in builds(arch, bits, options.width))


if __name__ == "__main__":
    main()
