"""Training under torchrun, as the launchers start it, for tests that kill its ranks."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start(recipe: Path, *, restarts: int, ranks: int = 2, more: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    launcher = [sys.executable, str(ROOT / "launch" / "ranks.py"), "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launcher, "--max-restarts", str(restarts), "-m", "dist_rec.cli", "train", str(recipe), *more]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def _steps(log: Path) -> list[int]:
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["step"] for line in lines if line.startswith('{"event": "train"') and line.endswith("}")]


def ranks_of(launcher: int) -> dict[int, int]:
    """Process of every rank."""
    found = {}
    for status in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = dict(part.split("=", 1) for part in status.read_text().split("\0") if "=" in part)
            parent = int((status.parent / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError):
            continue
        if parent == launcher and "RANK" in variables:
            found[int(variables["RANK"])] = int(status.parent.name)
    return found


def wait_for_step(log: Path, step: int, job: subprocess.Popen[str]) -> None:
    while (steps := _steps(log))[-1:] < [step] or not steps:
        assert job.poll() is None, job.communicate()[0]
        time.sleep(0.01)
