"""Every kernel becomes machine code that keeps its numbers in registers and counts elements in 64 bits, without a
GPU."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.aot.gather_pool import USES, WIDTHS


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("bits", [16, 32])
def test_kernels_compile_without_spills(architecture: int, bits: int, tmp_path: Path) -> None:
    """In a process of its own: kernels that were imported for the interpreter cannot be compiled. Prints registers of
    every build (pytest -s)."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.aot.gather_pool", "--arch", str(architecture)]
    command += ["--bits", str(bits), "--width", *map(str, WIDTHS)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    print(ran.stdout)
    assert ran.returncode == 0, "\n".join([line for line in ran.stdout.splitlines() if "<-" in line] + [ran.stderr])
    assert len(ran.stdout.splitlines()) == len(USES) * len(WIDTHS)
    _assert_64_bits(tmp_path)


def _assert_64_bits(cache: Path) -> None:
    """What is multiplied is a place: a position by a width, a row by a stride, an element by its bits. The only product
    of 32 bits is the first column of a program."""
    assert {path.stem for path in cache.glob("*/*.ttir")} == {"gather", "reduce_pieces", "combine_parts"}
    for path in cache.glob("*/*.ttir"):
        products = re.findall(r"arith\.muli .* : (?:tensor<[\dx]*x)?(i\d+)", path.read_text())
        assert products.count("i32") <= 1 < products.count("i64"), f"{path.stem}: products of {products}"
