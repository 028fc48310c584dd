"""The kernel becomes machine code that keeps its numbers in registers, on a machine without a GPU."""

import os
import subprocess
import sys


def test_compiles_without_spills() -> None:
    """In a process of its own: kernels that were imported for the interpreter cannot be compiled."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.aot.ngram_ids"]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [line.split(" ")[0] for line in ran.stdout.splitlines()] == ["sm_80"] * 8 + ["sm_90"] * 8
