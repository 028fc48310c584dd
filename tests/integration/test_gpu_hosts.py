"""`pytest -m gpu` on hosts that lack something: it says what, and the rest runs."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.conftest import lacking_for_a_gpu

ROOT = Path(__file__).parents[2]
HIDING = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torchrec", "fbgemm_gpu"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
"""


def test_a_host_without_torchrec_still_runs_the_kernels(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(HIDING)
    path = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    folders = ["tests/optim", "tests/training", "tests/integration", "tests/kernels/cross_causal_attention"]
    ran = subprocess.run(
        [*command, *folders],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "tests/optim/test_hybrid.py:1: needs torchrec, which is not installed" in ran.stdout
    if not torch.cuda.is_available():
        assert "tests/integration/test_attention_on_gpu.py" in ran.stdout
        assert "needs a CUDA device, torch sees none" in ran.stdout


def test_a_gpu_without_a_compiler_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/clang" if name == "clang" else None)
    assert lacking_for_a_gpu() == ""
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert lacking_for_a_gpu().startswith("needs a C compiler (gcc, clang, or CC): Triton builds")
