"""Compiles the kernels without a GPU and prints what the machine code uses; exits with 1 if one spills registers.

python -m benchmarks.aot.slot_attention [--arch 80 90]
"""

import argparse
from dataclasses import dataclass
from typing import Any

from benchmarks.aot.compile import SHARED_LIMIT, Used, compile_for, report
from dist_rec.kernels.slot_attention.kernels import attend_slots, attend_slots_backward, slot_deltas
from dist_rec.kernels.slot_attention.op import WARPS, tile_of

KERNELS = {"forward": attend_slots, "deltas": slot_deltas, "backward": attend_slots_backward}
SLOTS, SIZES = (4, 16), (8, 16, 32, 64, 128)


@dataclass(frozen=True)
class Build:
    """A kernel for groups of `slots` and heads of `size`."""

    architecture: int
    bits: int
    slots: int
    size: int
    name: str

    def __str__(self) -> str:
        return f"sm_{self.architecture} {self.bits} bits, {self.slots} slots, head {self.size}: {self.name}"

    def complaints(self, used: Used) -> list[str]:
        return used.complaints(self.architecture)

    def compile(self) -> Used:
        kernel: Any = KERNELS[self.name]
        constants = {"K": self.slots, "H": 4, "D": self.size, **tile_of(self.size)}
        low = "*bf16" if self.bits == 16 else "*fp32"
        types = {
            "QKV": low,
            "REAL": "*i1",
            "OUT": low,
            "GRAD": low,
            "GRAD_QKV": low,
            "num_rows": "i32",
            "scale": "fp32",
        }
        types |= {"LOG_SUM": "*fp32", "DELTA": "*fp32"}
        types = {name: kind for name, kind in types.items() if name in kernel.arg_names}
        return compile_for(kernel, types, constants, self.architecture, warps=WARPS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=sorted(SHARED_LIMIT))
    arches = parser.parse_args().arch
    report(
        Build(arch, bits, slots, size, name)
        for arch in arches
        for bits in (16, 32)
        for slots in SLOTS
        for size in SIZES
        for name in KERNELS
    )


if __name__ == "__main__":
    main()
