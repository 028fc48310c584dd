"""Signals and deaths: what reaches the workers, what is started again, and what is left."""

import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.launched import MEETS, RANKS, SLEEPS, WORKER, alive, kill_all, noted, start, until


@pytest.fixture
def notes(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "notes").mkdir()
    yield tmp_path / "notes"
    kill_all(tmp_path / "notes")


def _launch(notes: Path, worker: str, *, restarts: int = 0, **environment: str) -> subprocess.Popen[bytes]:
    program, output = notes.parent / "program.py", notes.parent / "output"
    program.write_text(worker)
    options = ["--standalone", "--nproc-per-node", "2", "--max-restarts", str(restarts)]
    return start([*RANKS, *options, str(program)], output=output, NOTES=str(notes), **environment)


def _said(notes: Path) -> str:
    return (notes.parent / "output").read_text()


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGUSR1], ids=lambda signum: signum.name)
def test_a_signal_reaches_the_workers_and_the_code_says_so(notes: Path, signum: signal.Signals) -> None:
    launcher = _launch(notes, SLEEPS, restarts=3)
    until(lambda: len(noted(notes, "world-2-life-0")) == 2)
    launcher.send_signal(signum)
    launcher.send_signal(signum)  # as Slurm may
    assert launcher.wait(30) == 75
    assert len(noted(notes, signum.name)) == 2
    assert _said(notes) == "", "the workers have said what there is to say"


@pytest.mark.parametrize("second", [False, True], ids=["in time", "asked twice"])
def test_the_patience_of_the_launcher_ends(notes: Path, second: bool) -> None:
    launcher = _launch(notes, SLEEPS, CHECKPOINT_S="600", DIST_REC_GRACE_S="600" if second else "1", restarts=3)
    until(lambda: len(noted(notes, "world-2-life-0")) == 2)
    launcher.send_signal(signal.SIGTERM)
    if second:
        time.sleep(2.5)
        launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(30) == 137
    why = "before a second SIGTERM came" if second else "1 s after SIGTERM (DIST_REC_GRACE_S)"
    assert _said(notes).strip() == (
        f"error: the ranks had not ended {why}, and were killed; the newest checkpoint is from before"
    )
    assert not any(map(alive, noted(notes, "world-2-life-0")))


def test_a_signal_before_the_workers_listen_loses_nothing(notes: Path) -> None:
    deaf = (
        "import os, pathlib, time; (pathlib.Path(os.environ['NOTES']) / f'up.0.{os.getpid()}').touch(); time.sleep(60)"
    )
    launcher = _launch(notes, deaf, restarts=3)
    until(lambda: len(noted(notes, "up")) == 2)
    launcher.send_signal(signal.SIGTERM)
    assert launcher.wait(30) == 75
    assert _said(notes) == ""


def test_ctrl_c_leaves_no_process(notes: Path) -> None:
    launcher = _launch(notes, SLEEPS)
    until(lambda: len(noted(notes, "world-2-life-0")) == 2)
    launcher.send_signal(signal.SIGINT)
    assert launcher.wait(30) == 130
    assert not any(map(alive, noted(notes, "world-2-life-0")))


def test_ranks_start_again_and_meet_after_one_was_killed(notes: Path) -> None:
    """The ranks of the second life meet at a place of their own."""
    kills = MEETS.replace("while True:", "if rank == '1' and life == '0': os.kill(os.getpid(), 9)\nwhile True:")
    launcher = _launch(notes, kills, restarts=3)
    until(lambda: len(noted(notes, "world-2-life-1")) == 2)
    (notes / "finish").touch()
    assert launcher.wait(60) == 0
    told = [line for line in _said(notes).splitlines() if line.startswith("restart")]
    assert len(told) == 1 and told[0].startswith("restart 1 of 3: rank 1 on "), _said(notes)
    assert "was ended by SIGKILL" in told[0]


def test_restarts_are_counted_and_end(notes: Path) -> None:
    launcher = _launch(notes, WORKER + "note(f'life-{life}'); sys.exit(1)", restarts=2)
    assert launcher.wait(60) == 1
    assert [line[:14] for line in _said(notes).splitlines()] == ["restart 1 of 2", "restart 2 of 2"]
    assert "ended with exit code 1" in _said(notes)
    assert noted(notes, "life-2")


def test_a_mistake_is_not_made_again(notes: Path) -> None:
    launcher = _launch(notes, WORKER + "note(f'life-{life}'); sys.exit(2)", restarts=3)
    assert launcher.wait(60) == 2
    assert noted(notes, "life-0") and not noted(notes, "life-1")
    assert _said(notes) == ""


def test_what_other_ranks_say_of_a_killed_one_is_no_mistake(notes: Path) -> None:
    """Both are seen to have ended at once: rank 0 because rank 1 was killed."""
    at_once = "import os, sys, time; last = os.environ['TORCHELASTIC_RESTART_COUNT'] == '1'\n"
    at_once += "time.sleep(2 - time.time() % 2)\n"
    at_once += "sys.exit(0) if last else os.kill(os.getpid(), 9) if os.environ['RANK'] == '1' else sys.exit(2)"
    launcher = _launch(notes, at_once, restarts=1)
    assert launcher.wait(60) == 0, _said(notes)
