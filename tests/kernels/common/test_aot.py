"""Real machine code is made and read without a GPU, and the reading can find a spill."""

import os
import subprocess
import sys

_SCRIPT = """
from dist_rec.doctor.triton_add import _add
from dist_rec.kernels.common.aot import compile_for
from dist_rec.kernels.cross_causal_attention.aot import Build
from dist_rec.kernels.cross_causal_attention.tile_table import Tile

types = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32"}
for capability in (80, 90, 100):
    used = compile_for(_add, types, {"BLOCK": 64}, capability, warps=1)
    print(used.spills, 0 < used.registers < 64)
try:
    compile_for(_add, types, {}, 90, warps=1)
except ValueError as error:
    print(error)
crowded = Build(90, 16, 64, "keys", Tile(64, 128, 4, 2), masked=False).compile()
print(crowded.spills, crowded.registers)
"""


def test_compiles_and_reads_what_is_used() -> None:
    """A small kernel fits everywhere; 64 rows by 128 keys on 4 warps are more than a thread's 255 registers hold."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.splitlines() == [*["False True"] * 3, "_add: no type or value for BLOCK", "True 255"]
