"""Compiles the kernels without a GPU and prints what the machine code uses; exits with 1 if one spills registers.

python -m benchmarks.aot.prefix_sum [--arch 80 90]
"""

import argparse
from dataclasses import dataclass
from typing import Any

from benchmarks.aot.compile import SHARED_LIMIT, Used, compile_for, report
from dist_rec.kernels.prefix_sum.kernels import sum_prefix, sum_prefix_backward
from dist_rec.kernels.prefix_sum.op import BN, TILE

KERNELS = {"sum": sum_prefix, "backward": sum_prefix_backward}


@dataclass(frozen=True)
class Build:
    """A kernel with every option, for tiles of `columns`."""

    architecture: int
    bits: int
    columns: int
    name: str

    def __str__(self) -> str:
        return f"sm_{self.architecture} {self.bits} bits, {self.columns} columns: {self.name}"

    def complaints(self, used: Used) -> list[str]:
        return used.complaints(self.architecture)

    def compile(self) -> Used:
        kernel: Any = KERNELS[self.name]
        constants = {"WIDTH": 100, "BN": BN, "BW": self.columns}
        types = {name: "*i32" if name.isupper() else "i32" for name in kernel.arg_names if name not in constants}
        low = "*bf16" if self.bits == 16 else "*fp32"
        types |= {"ROWS": low, "OUT": "*fp32"} if self.name == "sum" else {"GRAD": "*fp32", "GRAD_ROWS": low}
        return compile_for(kernel, types, constants, self.architecture, warps=TILE["num_warps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=sorted(SHARED_LIMIT))
    arches = parser.parse_args().arch
    report(
        Build(arch, bits, columns, name)
        for arch in arches
        for bits in (16, 32)
        for columns in (16, 64)
        for name in KERNELS
    )


if __name__ == "__main__":
    main()
