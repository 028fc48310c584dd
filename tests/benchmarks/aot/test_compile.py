"""Real machine code is made and read without a GPU, and the reading can find a spill."""

import os
import subprocess
import sys
from dataclasses import dataclass

import pytest

from benchmarks.aot.compile import Used, report

_SCRIPT = """
from dist_rec.doctor.triton_add import _add
from benchmarks.aot.compile import compile_for
from benchmarks.aot.attention import Build
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


_CLEAN = {"LDL": 0, "STL": 0}


@pytest.mark.parametrize(
    ("used", "architecture", "complaint"),
    [
        (Used(255, 40, 1024, _CLEAN), 90, "spills: 40 bytes of stack"),
        (Used(255, 0, 1024, _CLEAN | {"LDL": 3}), 90, "3 local loads"),
        (Used(100, 0, 300 * 1024, _CLEAN), 90, "shared memory"),
        (Used(100, 0, 100 * 1024, _CLEAN), 80, "needs 102400 bytes of shared memory of 101376"),
    ],
)
def test_says_what_is_wrong_with_a_kernel(used: Used, architecture: int, complaint: str) -> None:
    assert not Used(100, 0, 100 * 1024, _CLEAN).complaints(90)
    assert [complaint in line for line in used.complaints(architecture)] == [True]


@dataclass(frozen=True)
class _Build:
    wrong: list[str]

    def __str__(self) -> str:
        return "a kernel"

    def compile(self) -> Used:
        return Used(100, 0, 1024, _CLEAN | {"HMMA": 8})

    def complaints(self, used: Used) -> list[str]:
        return self.wrong


@pytest.mark.parametrize("wrong", [[], ["spills", "no wgmma"]])
def test_reports_every_build_and_fails_with_a_complaint(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        report([_Build(wrong), _Build([])])
    used = "a kernel: 100 registers, 1024 bytes shared, 8 HMMA"
    assert stopped.value.code == bool(wrong)
    assert capsys.readouterr().out.splitlines() == [used + (" <- spills; no wgmma" if wrong else ""), used]
