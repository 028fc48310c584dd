"""A clock that jumps by more than a year in the middle of a run, and again before it goes on: the run computes what it
would have, and goes on from the checkpoint with the most steps."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta, timezone, tzinfo
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from dist_rec.training import about, manifest
from dist_rec.training.about import About
from dist_rec.training.interrupt import Interrupted
from dist_rec.training.kept import newest_first
from dist_rec.training.manifest import Manifest
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.study import run_study
from dist_rec.training.watchdog import PROGRESS
from tests.helpers.ranks import run_ranks
from tests.training.runs import assert_same_weights, make_config, rows, saved_weights, these_ranks, write_dataset

JUMPS_AT, ENDS_AT = 5, 8  # steps
YEAR = timedelta(days=400)
HANGS_S = 60
CHANGES: dict[str, Any] = {
    "data": {"batch_size": 4},
    "run": {"epochs": 2, "select_best": "auc", "eval_every": 4},
    "checkpoint": {"every_steps": 3},
    "parallel": {"hang_timeout_s": HANGS_S},
    "model": {"longer": {"dropout": 0.2}},
}


class Clock:
    """Of this process: `ahead` of the machine's."""

    def __init__(self, ahead: timedelta) -> None:
        self.ahead, self._time, self._text = ahead, time.time, time.strftime

    def time(self) -> float:
        return self._time() + self.ahead.total_seconds()

    def text(self, form: str, at: Any = None) -> str:
        return self._text(form, time.localtime(self.time()) if at is None else at)


@contextmanager
def _on(clock: Clock, jump: timedelta, *, ends: bool) -> Iterator[None]:
    """The clock is `jump` ahead from a step on, and a signal asks the run to end some steps after that."""

    class Dated(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> "Dated":
            return cls.fromtimestamp(clock.time(), tz)

    at = PROGRESS.at

    def moved(stage: str, step: int | None = None) -> None:
        if stage == "training" and step == JUMPS_AT:
            clock.ahead = jump
        if stage == "training" and step == ENDS_AT and ends:
            os.kill(os.getpid(), signal.SIGUSR1)
        at(stage, step)

    with ExitStack() as patched:
        for owner, name, by in (
            (time, "time", clock.time),
            (time, "strftime", clock.text),
            (manifest, "datetime", Dated),
            (about, "datetime", Dated),
            (PROGRESS, "at", moved),
        ):
            patched.enter_context(patch.object(owner, name, by))
        yield


def _runs(data: Path, out: Path, jump: timedelta, ranks: Ranks) -> list[str]:
    """An undisturbed run, and one whose clock jumps and which is ended and started again under a third time; its
    checkpoints when it was ended."""
    whole, jumped = (make_config(data, out / name, **CHANGES) for name in ("whole", "jumped"))
    run_study(whole, ranks, "auto")
    with _on(Clock(timedelta(0)), jump, ends=True), pytest.raises(Interrupted):
        run_study(jumped, ranks, "auto")
    found = [path.name for path in newest_first(out / "jumped" / "tiny" / "checkpoints")]
    ranks.barrier()
    with _on(Clock(-jump), -jump, ends=False):
        run_study(jumped, ranks, "auto")
    return found


def _check(data: Path, out: Path, jump: timedelta, found: list[str]) -> None:
    whole, jumped = (make_config(data, out / name, **CHANGES) for name in ("whole", "jumped"))
    assert [path.name for path in (out / "jumped").iterdir()] == ["tiny"], "one folder of one name"
    steps = [int(name.removeprefix("step-")) for name in found]
    assert steps == sorted(steps, reverse=True) and steps[0] >= ENDS_AT and steps[-2:] == [6, 3]
    folder = out / "jumped" / "tiny"
    times = {step: Manifest.read(folder / "checkpoints" / f"step-{step}").time for step in steps}
    assert abs(times[6] - times[3] - jump) < timedelta(hours=1)
    assert abs(times[6] - datetime.now(timezone.utc) - jump) < timedelta(hours=1)
    assert_same_weights(saved_weights(jumped, "tiny"), saved_weights(whole, "tiny"))
    told = [[(row["step"], row["loss"]) for row in rows(config, "tiny")] for config in (jumped, whole)]
    assert told[0] == told[1] and all(0 < row["seconds"] < HANGS_S for row in rows(jumped, "tiny"))
    assert not (folder / "hang").exists()
    ended = About.read(folder)
    assert ended is not None and ended.state == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("jump", [YEAR, -YEAR], ids=["forwards", "backwards"])
def test_the_weights_are_the_same_and_the_newest_is_the_one_with_most_steps(tmp_path: Path, jump: timedelta) -> None:
    data = write_dataset(tmp_path / "data")
    with start_ranks(make_config(data, tmp_path).parallel) as alone:
        found = _runs(data, tmp_path, jump, alone)
    _check(data, tmp_path, jump, found)


def _on_a_rank(data: Path, out: Path, jump: timedelta) -> list[str]:
    """The clock of rank 1 goes the other way."""
    ranks = these_ranks()
    return _runs(data, out, jump if ranks.is_main else -jump, ranks)


@pytest.mark.slow
def test_on_two_ranks_whose_clocks_part(tmp_path: Path) -> None:
    data = write_dataset(tmp_path / "data")
    found = run_ranks(_on_a_rank, 2, data, tmp_path, YEAR)
    assert found[0] == found[1]
    _check(data, tmp_path, YEAR, found[0])
