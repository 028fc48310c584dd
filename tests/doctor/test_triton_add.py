import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")
ROOT = Path(__file__).resolve().parents[2]
CODE = "from dist_rec.doctor.triton_add import add_works; add_works('{device}')"


def test_adds_under_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}  # read when Triton is imported, so in a process of its own
    ran = subprocess.run(
        [sys.executable, "-c", CODE.format(device="cpu")], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr


@pytest.mark.gpu
def test_adds_on_the_gpu() -> None:
    ran = subprocess.run([sys.executable, "-c", CODE.format(device="cuda")], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
