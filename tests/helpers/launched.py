"""Jobs for the tests of launch/: a project whose `dist_rec.cli` is a stand-in, and processes that are watched."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RANKS = [sys.executable, str(ROOT / "launch" / "ranks.py")]
# Notes what happens to it in the folder NOTES; ends as the training does when it is asked to stop.
WORKER = """
import os, pathlib, signal, sys, time
notes = pathlib.Path(os.environ["NOTES"])
rank, world, life = os.environ["RANK"], os.environ["WORLD_SIZE"], os.environ["TORCHELASTIC_RESTART_COUNT"]
def note(what):
    (notes / f"{what}.{rank}.{os.getpid()}").write_text(str(os.getpid()))
def stop(signum, frame):
    note(signal.Signals(signum).name)
    time.sleep(float(os.environ.get("CHECKPOINT_S", "0")))
    if os.environ["LOCAL_RANK"] == "0":
        pathlib.Path(os.environ["DIST_REC_INTERRUPTED"]).touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGUSR1, stop)
"""
SLEEPS = (
    WORKER
    + """
note(f"world-{world}-life-{life}")
while not (notes / "finish").exists():
    time.sleep(0.05)
"""
)
# As SLEEPS, with ranks that meet and notice when one of them is gone.
MEETS = (
    WORKER
    + """
from datetime import timedelta
import torch, torch.distributed as dist
dist.init_process_group("gloo", timeout=timedelta(seconds=30))
note(f"world-{world}-life-{life}")
while True:
    end = torch.tensor([float((notes / "finish").exists())])
    dist.all_reduce(end)
    if end.item():
        break
    time.sleep(0.05)
note(f"finished-{world}")
dist.destroy_process_group()  # gloo's threads end before the interpreter does
"""
)
_started: list[subprocess.Popen[bytes]] = []
CLI = "import sys\nif '--check-only' in sys.argv: sys.exit(0)\nprint('called with', *sys.argv[1:], flush=True)\n"


def start(command: list[str], *, output: Path, **environment: str) -> subprocess.Popen[bytes]:
    """In a session of its own, in the folder of the file that gets what it says: `python -m` looks there first."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("DIST_REC_")}
    with output.open("wb") as file:
        launcher = subprocess.Popen(
            command,
            cwd=output.parent,
            env={**inherited, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _started.append(launcher)
    return launcher


def until(there: Callable[[], object], *, timeout_s: float = 90.0) -> None:
    end = time.monotonic() + timeout_s
    while not there():
        assert time.monotonic() < end, "it has not come about in time"
        time.sleep(0.05)


def noted(notes: Path, pattern: str) -> list[int]:
    """The processes that have noted it."""
    return [int(path.name.rpartition(".")[2]) for path in sorted(notes.glob(f"{pattern}.*"))]


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill_all(notes: Path) -> None:
    """What a failed test has left."""
    for launcher in _started:
        launcher.kill()
        launcher.wait()
    _started.clear()
    for path in notes.glob("*.*.*"):
        process = int(path.name.rpartition(".")[2])
        if alive(process):
            os.kill(process, signal.SIGKILL)


def project(folder: Path, worker: str) -> Path:
    """The launchers, with a stand-in for the command line of the training."""
    shutil.copytree(ROOT / "launch", folder / "launch")
    python = folder / ".venv" / "bin" / "python"
    script(python, f'exec {sys.executable} "$@"')
    (folder / "dist_rec").mkdir()
    (folder / "dist_rec" / "__init__.py").touch()
    (folder / "dist_rec" / "cli.py").write_text(CLI + worker)
    return folder


def script(place: Path, text: str) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(f"#!/bin/bash\n{text}\n")
    place.chmod(0o755)
