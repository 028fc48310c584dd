"""Compiles the kernel without a GPU and prints what the machine code uses; exits with 1 if it spills registers.

python -m benchmarks.aot.unique_ids [--arch 80 90]
"""

import argparse
import sys

from benchmarks.aot.compile import SHARED_LIMIT, compile_for
from dist_rec.kernels.unique_ids.bit_packed_kernels import unpack_kernel
from dist_rec.kernels.unique_ids.op import BLOCK


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", type=int, nargs="+", default=[80, 90], choices=sorted(SHARED_LIMIT))
    failed = False
    for architecture in parser.parse_args().arch:
        types = {"WORDS": "*i32", "OUT": "*i32", "bits": "i32", "length": "i32"}
        used = compile_for(unpack_kernel, types, {"BLOCK": BLOCK}, architecture, warps=4)
        complaints = used.complaints(architecture)
        failed |= bool(complaints)
        print(
            f"sm_{architecture} unpack: {used.registers} "
            f"registers{' <- ' + '; '.join(complaints) if complaints else ''}"
        )
    sys.exit(failed)


if __name__ == "__main__":
    main()
