"""slurm.sbatch with stand-ins for Slurm's programs: it is really run, really interrupted, and really queued again."""

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.launched import SLEEPS, kill_all, noted, project, script, start, until

SBATCH = """
while [[ $1 == --* ]]; do shift 2; done
batch=$1; shift
# Slurm runs a copy, in a folder of its own
cp "$batch" "$SPOOL/slurm_script"
exec bash "$SPOOL/slurm_script" "$@"
"""
SRUN = 'echo "srun $*" >>"$CALLS"; while [[ $1 == --* ]]; do shift; done; exec "$@"'
SCONTROL = 'echo "scontrol $*" >>"$CALLS"; [ "$1 $2" != "show hostnames" ] || printf "localhost\\nother\\n"'


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a job."""
    project(tmp_path, SLEEPS)
    for name in ("notes", "spool"):
        (tmp_path / name).mkdir()
    (tmp_path / "recipe.yaml").touch()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "scontrol": SCONTROL}.items():
        script(tmp_path / "bin" / name, text)
    yield {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "NOTES": str(tmp_path / "notes"),
        "SPOOL": str(tmp_path / "spool"),
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "4711",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_NODELIST": "localhost",
        "DIST_REC_RANKS": "2",
    }
    kill_all(tmp_path / "notes")


def _submit(folder: Path, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    batch = str(folder / "launch" / "slurm.sbatch")
    command = ["sbatch", "--nodes", "1", batch, str(folder / "recipe.yaml"), "--set", "a=b"]
    return start([str(folder / "bin" / command[0]), *command[1:]], output=folder / "log", **environment)


@pytest.mark.parametrize("signum", [signal.SIGUSR1, signal.SIGTERM], ids=lambda signum: signum.name)
def test_an_interrupted_job_is_queued_again(tmp_path: Path, cluster: dict[str, str], signum: signal.Signals) -> None:
    job = _submit(tmp_path, {**cluster, "CHECKPOINT_S": "1"})
    until(lambda: len(noted(tmp_path / "notes", "world-2-life-0")) == 2)
    job.send_signal(signum)
    assert job.wait(60) == 0, (tmp_path / "log").read_text()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls[-1] == "scontrol requeue 4711"
    assert "job 4711 is queued again" in (tmp_path / "log").read_text()
    assert "recipe.yaml --set a=b --resume auto" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("code", [0, 2])
def test_other_codes_are_passed_on(tmp_path: Path, cluster: dict[str, str], code: int) -> None:
    (tmp_path / "dist_rec" / "cli.py").write_text(f"import sys; sys.exit({code} * ('--check-only' not in sys.argv))")
    assert _submit(tmp_path, cluster).wait(60) == code
    assert "requeue" not in (tmp_path / "calls").read_text()


def test_a_copy_without_its_project(tmp_path: Path, cluster: dict[str, str]) -> None:
    shutil.rmtree(tmp_path / "launch" / "kubernetes")
    ran = _submit(tmp_path, {**cluster, "SLURM_SUBMIT_DIR": "/no/where"})
    assert ran.wait(30) == 1
    assert (
        "no launch/multinode.sh in '/no/where'; call sbatch from the project's folder" in (tmp_path / "log").read_text()
    )
