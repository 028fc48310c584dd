"""A run on gloo ranks under torchrun, looked at from outside."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TypedDict

from benchmarks.checkpoint.watch import Held, family, look

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "launch" / "recipes" / "quickstart.yaml"
LOOKS_PER_MINUTE = 2


class Moments(TypedDict):
    """Of rank 0, in seconds: when each step ended, and when each checkpoint began to be written and was there."""

    steps: list[float]
    saves: list[tuple[float, float]]


def run_job(
    recipe: list[str], place: Path, more: list[str], minutes: float | None, ranks: int
) -> tuple[Moments, list[Held], list[str]]:
    """The run of a recipe and its settings in a new folder, asked to end after so many minutes: its moments, what its
    processes held, and what was left when they had ended."""
    place.mkdir()
    fixed = [
        f"run.out={place}",
        "run.log_every=1000",
        "data.valid=[]",
        "data.test=[]",
        "checkpoint.at_end=false",
        *more,
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    command = [*launcher, "-m", "benchmarks.checkpoint.rank", str(place / "moments.json"), *recipe, *fixed]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    shared = {path.name for path in Path("/dev/shm").iterdir()}
    job = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
    began, held = time.monotonic(), list[Held]()
    while job.poll() is None and (minutes is None or time.monotonic() - began < 60 * minutes):
        if minutes is not None:
            held.append(look(job.pid, began))
        time.sleep(60 / LOOKS_PER_MINUTE if minutes is not None else 0.2)
    members = family(job.pid)
    for process in members:
        variables = _environment(process)
        if "RANK=0" in variables:
            os.kill(process, signal.SIGUSR1)
    if job.wait() != 0:
        raise SystemExit(f"the run ended with code {job.returncode}")
    left = [str(process) for process in members if Path(f"/proc/{process}").exists()]
    left += [path.name for path in Path("/dev/shm").iterdir() if path.name not in shared]
    left += [str(path) for path in place.rglob(".half-*")]
    return json.loads((place / "moments.json").read_text()), held, left


def _environment(process: int) -> list[str]:
    """Of a rank itself, not of its reader workers, which inherit it."""
    try:
        words = Path(f"/proc/{process}/environ").read_text().split("\0")
        parent = int(Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[1])
        own = Path(f"/proc/{parent}/environ").read_text().split("\0")
    except OSError:
        return []
    return [] if "RANK=0" in own else words
