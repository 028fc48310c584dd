"""Compiles the kernel without a GPU and prints what the machine code uses; exits with 1 if one spills registers.

python -m benchmarks.aot.jagged_range [--arch 80 90]
"""

import argparse
from dataclasses import dataclass
from typing import Any

from benchmarks.aot.compile import SHARED_LIMIT, Used, compile_for, report
from dist_rec.kernels.jagged_range.kernels import write_range
from dist_rec.kernels.jagged_range.op import BN, TILE


@dataclass(frozen=True)
class Build:
    """The kernel for one step, with every option."""

    architecture: int
    step: int

    def __str__(self) -> str:
        return f"sm_{self.architecture} step {self.step}"

    def complaints(self, used: Used) -> list[str]:
        return used.complaints(self.architecture)

    def compile(self) -> Used:
        kernel: Any = write_range
        constants = {"STEP": self.step, "HAS_MOST": True, "BN": BN}
        types = {name: "*i32" if name.isupper() else "i32" for name in kernel.arg_names if name not in constants}
        return compile_for(kernel, types | {"OUT": "*i64"}, constants, self.architecture, warps=TILE["num_warps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=sorted(SHARED_LIMIT))
    report(Build(arch, step) for arch in parser.parse_args().arch for step in (-1, 0, 1))


if __name__ == "__main__":
    main()
