"""Compiles every entry of the tile table without a GPU and prints what the machine code uses.

    python -m benchmarks.aot.attention [--arch 80 90 100] [--bits 16 32] [--hardest]

Exits with 1 if an entry spills registers, needs more shared memory than its architecture has, or, on sm_90 with 64 rows
or more in 16 bits, does without the tensor core instruction for whole warp groups (wgmma).
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.aot.compile import Used, compile_for, report
from dist_rec.kernels.cross_causal_attention import tuning
from dist_rec.kernels.cross_causal_attention.backward_one_pass import backward_one_pass, sum_parts
from dist_rec.kernels.cross_causal_attention.backward_two_pass import backward_keys, backward_queries
from dist_rec.kernels.cross_causal_attention.forward import combine, forward
from dist_rec.kernels.cross_causal_attention.op import COMBINED_ROWS
from dist_rec.kernels.cross_causal_attention.row_statistics import row_statistics
from dist_rec.kernels.cross_causal_attention.tile_table import Tile, tile_table

KERNELS = {
    "forward": forward,
    "combine": combine,
    "statistics": row_statistics,
    "one_pass": backward_one_pass,
    "sum_parts": sum_parts,
    "queries": backward_queries,
    "keys": backward_keys,
}
MATMULS = ("forward", "statistics", "one_pass", "queries", "keys")
MASK_OPTIONS = ("NUM_CANDIDATES", "FIRST_CANDIDATE", "PREFIX_LEN", "Q_POSITIONS", "KEY_VALID")
_INT32 = (
    *("Q_OFFSETS", "KV_OFFSETS", "REQUEST", "TILE", "COUNT", "FIRST", "NUM_CANDIDATES", "PREFIX_LEN", "Q_POSITIONS"),
    "FIRST_CANDIDATE",
)
_FLOAT = ("PEAK", "TOTAL", "DELTA", "DQ_PARTS", "PIECE_OUT", "PIECE_PEAK", "PIECE_TOTAL")
_SCALARS = (
    *("q_stride", "q_head_stride", "k_stride", "k_head_stride", "v_stride", "v_head_stride"),
    *("kv_heads", "group_size", "max_q_len", "row_tiles"),
)


@dataclass(frozen=True)
class Build:
    """One kernel with one tile; `masked`: with every option of the mask, pieces of keys, two query heads per key-value
    head and a head size that has to be padded, otherwise with none of these."""

    architecture: int
    bits: int
    head: int
    kernel: str
    tile: Tile
    masked: bool

    def __str__(self) -> str:
        tile, options = self.tile, ", all mask options" if self.masked else ""
        shape = f"{tile.rows} x {tile.keys}, {tile.warps} warps, {tile.stages} stages{options}"
        return f"sm_{self.architecture} {self.bits} bits, head {self.head}: {self.kernel} {shape}"

    def compile(self) -> Used:
        kernel = KERNELS[self.kernel]
        constants: dict[str, Any] = {} if self.masked else dict.fromkeys((*MASK_OPTIONS, "DQ_PARTS"))
        constants |= {"SPLIT": tuning.SPLIT_KEYS, "PIECE": tuning.piece_keys(self.tile.rows)} if self.masked else {}
        constants = {"SPLIT": 0, "PIECE": 0, "CAUSAL": True, "PRECISION": "ieee", "ROWS": COMBINED_ROWS, **constants}
        constants |= {
            "D": self.head,
            "HEAD": self.head - 8 * self.masked,
            "GROUP": 1 + self.masked,
            "SHARED": 1 + self.masked,
        }
        anew = (
            self.bits == 32
        )  # the statistics of rows: then OUT is not read, and otherwise DELTA only between the two passes
        constants |= {"ANEW": anew, **({"OUT": None} if anew and self.kernel in ("one_pass", "queries") else {})}
        constants |= {"DELTA": None} if not anew and self.kernel == "one_pass" else {}
        constants |= {"BM": self.tile.rows, "BN": self.tile.keys, "STAGES": self.tile.stages}
        value = "*bf16" if self.bits == 16 else "*fp32"
        types = dict.fromkeys(("Q", "K", "V", "OUT", "DO", "DQ", "DK", "DV"), value)
        types |= dict.fromkeys(_INT32, "*i32") | dict.fromkeys(_FLOAT, "*fp32") | dict.fromkeys(_SCALARS, "i32")
        types |= {"KEY_VALID": "*u8", "scale": "fp32"}
        if self.kernel == "forward" and self.masked:
            types["OUT"] = "*fp32"
        types = {name: kind for name, kind in types.items() if name not in constants}
        return compile_for(kernel, types, constants, self.architecture, warps=self.tile.warps)

    def complaints(self, used: Used) -> list[str]:
        found = used.complaints(self.architecture)
        wide = self.kernel in MATMULS and self.bits == 16 and self.tile.rows >= 64
        if self.architecture == 90 and wide and not used.instructions["HGMMA"]:
            found.append("no wgmma")
        return found


def builds(architecture: int, bits: int) -> Iterator[Build]:
    """Everything that a call can launch."""
    for head, entry in tile_table()[architecture, bits].items():
        tiles = [("forward", tile) for tile in entry.forward.values()]
        tiles += [("one_pass", tile) for tile in entry.one_pass.values()]
        tiles += [("queries", entry.queries), ("keys", entry.keys)]
        if bits == 32:
            backward = (*entry.one_pass.values(), entry.queries)
            statistics = (tuning.statistics_tile(architecture, head, tile) for tile in backward)
            tiles += [("statistics", tile) for tile in dict.fromkeys(statistics)]
        for kernel, tile in tiles:
            for masked in (False, True):
                yield Build(architecture, bits, head, kernel, tile, masked)
        yield Build(architecture, bits, head, "combine", max(entry.forward.values(), key=lambda tile: tile.rows), True)
        if entry.one_pass:
            yield Build(
                architecture, bits, head, "sum_parts", max(entry.one_pass.values(), key=lambda tile: tile.rows), True
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90, 100], choices=[80, 90, 100])
    parser.add_argument("--bits", type=int, nargs="+", default=[16, 32], choices=[16, 32])
    parser.add_argument("--hardest", action="store_true", help="Only builds with all mask options and padded heads.")
    options = parser.parse_args()
    wanted = (build for arch in options.arch for bits in options.bits for build in builds(arch, bits))
    report(build for build in wanted if build.masked or not options.hardest)


if __name__ == "__main__":
    main()
