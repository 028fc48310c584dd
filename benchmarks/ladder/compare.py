"""Two commits against each other: two git worktrees, a process set each, whose blocks take turns on the same machine.

Both run the benchmark of this checkout on the same requests, each with its own dist_rec; only processor time is
compared, since the other set waits meanwhile."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.ladder.cell import Cell, write_data
from benchmarks.ladder.measure import ROOT, Turns, start_job


def compare(cell: Cell, rows: list[str], rounds: int, commits: tuple[str, str]) -> list[dict[str, Any]]:
    """What `measure` gives, of each commit; `commit` is its short hash.

    Raises ValueError for what git does not know as a commit, and RuntimeError if a rank fails."""
    names = [_short(commit) for commit in commits]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        write_data(cell, folder / "data")
        (folder / "turn").write_text("0")
        with _worktree(names[0], folder / "a") as first, _worktree(names[1], folder / "b") as second:
            outs = [folder / "a.json", folder / "b.json"]
            jobs = [
                start_job(cell, rows, rounds, folder / "data", out, Turns(folder / "turn", me), root)
                for me, (root, out) in enumerate(zip((first, second), outs))
            ]
            _wait(jobs, names)
            return [{"commit": name} | json.loads(out.read_text()) for name, out in zip(names, outs)]


def _wait(jobs: "list[subprocess.Popen[bytes]]", names: list[str]) -> None:
    """Until both have ended. One that fails ends the other, which would wait for its turn for ever."""
    failed = ""
    waiting = dict(zip(names if names[0] != names[1] else (f"{names[0]}, first", f"{names[1]}, second"), jobs))
    while waiting:
        for name, job in list(waiting.items()):
            try:
                code = job.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                continue
            del waiting[name]
            if code and not failed:
                failed = name
                for other in waiting.values():
                    other.terminate()
    if failed:
        raise RuntimeError(f"compare: a rank of {failed} failed, and says above why")


def _short(commit: str) -> str:
    command = ["git", "rev-parse", "--short", "--verify", "--end-of-options", f"{commit}^{{commit}}"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise ValueError(f"compare: expected a commit of {ROOT}, got {commit!r}")
    return ran.stdout.strip()


@contextmanager
def _worktree(commit: str, folder: Path) -> Iterator[Path]:
    """A checkout of `commit` with its extension built, and with the benchmarks of this checkout."""
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], cwd=ROOT, check=True)
    try:
        build = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
        subprocess.run(build, cwd=folder, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"PYTHONPATH": ""})
        shutil.rmtree(folder / "benchmarks")
        (folder / "benchmarks").symlink_to(ROOT / "benchmarks")
        yield folder
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=ROOT, check=True)
