import subprocess
import sys

import pytest

from benchmarks.ladder.cell import Cell
from benchmarks.ladder.compare import _short, _wait, compare


def test_what_is_no_commit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"expected a commit of .*, got 'no-such-thing'"):
        _short("no-such-thing")


def test_a_set_that_fails_ends_the_other() -> None:
    programs = ("import time; time.sleep(600)", "raise SystemExit(3)")
    jobs = [subprocess.Popen([sys.executable, "-c", program]) for program in programs]
    with pytest.raises(RuntimeError, match="a rank of second failed"):
        _wait(jobs, ["first", "second"])
    assert all(job.poll() is not None for job in jobs)


@pytest.mark.slow
def test_a_commit_against_itself() -> None:
    before = _worktrees()
    found = compare(Cell("longer", "30", 2, 1, batch=2, steps=2), ["2", "sync"], 2, ("HEAD", "HEAD"))
    assert [of["commit"] for of in found] == [_short("HEAD")] * 2
    assert all(len(row["processor"]) == 2 for of in found for row in of["rows"].values())
    assert _worktrees() == before, "those of the two commits are gone"


def _worktrees() -> list[str]:
    listed = subprocess.run(["git", "worktree", "list"], capture_output=True, text=True, check=True)
    return listed.stdout.splitlines()
