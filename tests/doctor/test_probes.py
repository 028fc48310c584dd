import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dist_rec.doctor import probes

ROOT = Path(__file__).resolve().parents[2]


def test_torch_tells_the_number_of_gpus_first() -> None:
    assert int(probes.probe_torch().split(" ")[0]) == (torch.cuda.device_count() if torch.cuda.is_available() else 0)


def test_operators_are_there() -> None:
    assert "FBGEMM operators" in probes.probe_operators()


def test_a_missing_operator_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "OPERATORS", ("segment_sum_csr", "no_such_operator"))
    with pytest.raises(RuntimeError, match="registered no operator no_such_operator"):
        probes.probe_operators()


def test_embedding() -> None:
    assert "update" in probes.probe_embedding()


def test_the_extension_is_named() -> None:
    assert "_host" in probes.probe_dedup()
    assert "_native_" in probes.probe_native()


def test_a_probe_is_a_process_that_prints_a_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "dist_rec.doctor.probes", "torch"], cwd=ROOT, capture_output=True, text=True
    )
    assert ran.returncode == 0 and "GPU(s)" in ran.stdout, ran.stderr


def test_a_lone_rank_agrees_with_itself(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dist_rec.doctor.probes", "rank", "gloo", "0", "1", str(tmp_path / "store")]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0 and "1 gloo ranks" in ran.stdout, ran.stderr
