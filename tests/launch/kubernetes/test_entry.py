"""What an operator tells a pod reaches the launcher, and the launcher's codes reach the operator."""

import os
import shutil
import signal
import subprocess
from pathlib import Path

import pytest

from tests.helpers.launched import ROOT, script, start, until


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """With a stand-in for multinode.sh."""
    (tmp_path / "launch" / "kubernetes").mkdir(parents=True)
    shutil.copy(ROOT / "launch" / "kubernetes" / "entry.sh", tmp_path / "launch" / "kubernetes")
    script(tmp_path / "launch" / "multinode.sh", 'echo "$DIST_REC_NNODES $DIST_REC_RDZV $*"; exit "$CODE"')
    return tmp_path / "launch" / "kubernetes" / "entry.sh"


@pytest.mark.parametrize(
    ("told", "place"),
    [
        ({"PET_NNODES": "1:4", "PET_RDZV_ENDPOINT": "job-worker-0:29500"}, "1:4 job-worker-0:29500"),
        (
            {"PET_NNODES": "2", "PET_MASTER_ADDR": "job-node-0-0.job", "PET_MASTER_PORT": "29400"},
            "2 job-node-0-0.job:29400",
        ),
        ({"DIST_REC_NNODES": "3", "PET_NNODES": "2", "DIST_REC_RDZV": "a:1", "PET_MASTER_ADDR": "b"}, "3 a:1"),
    ],
    ids=["PyTorchJob", "TrainJob", "one's own"],
)
@pytest.mark.parametrize(("code", "seen"), [(0, 0), (2, 2), (75, 143), (137, 137)])
def test_settings_and_codes(entry: Path, told: dict[str, str], place: str, code: int, seen: int) -> None:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("DIST_REC_", "PET_", "MASTER_"))}
    environment = {**clean, **told, "CODE": str(code)}
    ran = subprocess.run([str(entry), "r.yaml"], env=environment, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout.strip()) == (seen, f"{place} r.yaml"), ran.stderr


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1], ids=lambda signum: signum.name)
def test_signals_reach_the_launcher(entry: Path, signum: signal.Signals) -> None:
    """The checkpoint takes longer than the signal."""
    waits = "trap 'sleep 1; echo saved; exit 75' TERM USR1; echo up; while :; do sleep 0.1; done"
    script(entry.parents[1] / "multinode.sh", waits)
    output = entry.parent / "output"
    pod = start([str(entry)], output=output)
    until(lambda: "up" in output.read_text())
    pod.send_signal(signum)
    assert pod.wait(30) == 143
    assert output.read_text() == "up\nsaved\n"
