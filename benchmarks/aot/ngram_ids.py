"""Compiles the kernel without a GPU and prints what the machine code uses; exits with 1 if one spills registers.

python -m benchmarks.aot.ngram_ids [--arch 80 90]
"""

import argparse
from dataclasses import dataclass
from typing import Any

from benchmarks.aot.compile import SHARED_LIMIT, Used, compile_for, report
from dist_rec.kernels.ngram_ids.kernels import hash_ngrams
from dist_rec.kernels.ngram_ids.op import tile


@dataclass(frozen=True)
class Build:
    """The kernel with hidden events and times."""

    architecture: int
    heads: int
    longest: int
    polynomial: bool

    def __str__(self) -> str:
        kind = "polynomial" if self.polynomial else "mixed"
        return f"sm_{self.architecture} {self.heads} heads, n-grams up to {self.longest}, {kind}"

    def complaints(self, used: Used) -> list[str]:
        return used.complaints(self.architecture)

    def compile(self) -> Used:
        kernel: Any = hash_ngrams
        of = tile(self.heads)
        constants = {"M": self.heads, "LONGEST": self.longest, "POLYNOMIAL": self.polynomial, "HAS_HIDDEN": True}
        constants |= {"BN": of["BN"], "BM": of["BM"]}
        types = {name: "*i64" if name.isupper() else "i32" for name in kernel.arg_names if name not in constants}
        types |= {"OFFSETS": "*i32", "TIMES": "*i32", "hidden": "i64", "gap": "i64"}
        return compile_for(kernel, types, constants, self.architecture, warps=of["num_warps"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=sorted(SHARED_LIMIT))
    sizes = ((1, 2), (4, 3), (12, 4), (64, 8))
    report(
        Build(arch, heads, longest, polynomial)
        for arch in parser.parse_args().arch
        for heads, longest in sizes
        for polynomial in (False, True)
    )


if __name__ == "__main__":
    main()
