"""Signals that a run waits for, and how its process ends."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from dist_rec.training import checkpoint
from dist_rec.training.interrupt import EXIT, FILE, SIGNALS, Asked, Interrupted, exit_code, listening
from dist_rec.training.kept import newest_first
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from tests.training.runs import assert_same_weights, make_config, quiet_console, run, saved_weights


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_noted_and_handlers_come_back(number: signal.Signals) -> None:
    before = [signal.getsignal(of) for of in SIGNALS]
    with listening() as asked:
        assert not asked.now
        os.kill(os.getpid(), number)
        assert asked.now
    assert [signal.getsignal(of) for of in SIGNALS] == before


def test_another_thread_hears_nothing_and_says_nothing() -> None:
    heard = []
    thread = threading.Thread(target=lambda: heard.append(listening().__enter__().now))
    thread.start()
    thread.join()
    assert heard == [False]


def test_the_exit_code_or_the_file_of_a_launcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(FILE, raising=False)
    assert exit_code() == EXIT == 75
    monkeypatch.setenv(FILE, str(tmp_path / "told"))
    assert exit_code() == 0
    assert [path.name for path in tmp_path.iterdir()] == ["told"]


@pytest.mark.parametrize("after", [pytest.param(0, marks=pytest.mark.slow), 2, 3])
def test_a_run_that_is_asked_saves_and_goes_on_to_the_bit(data: Path, tmp_path: Path, alone: Ranks, after: int) -> None:
    changes = {"checkpoint": {"every_steps": 3}, "run": {"epochs": 3}, "model": {"longer": {"dropout": 0.2}}}
    config = make_config(data, tmp_path, **changes)
    run(config, alone, "whole")
    asked = _Later(after)
    with (
        RunLog(tmp_path / "asked", is_main=True, console=quiet_console()) as log,
        pytest.raises(Interrupted, match="resume with: --resume") as ended,
    ):
        train_one(config, alone, log, None, asked)
    assert ended.value.checkpoint == newest_first(tmp_path / "asked" / "checkpoints")[0]
    assert 0 < ended.value.step < 18
    run(config, alone, "again", ended.value.checkpoint)
    assert_same_weights(saved_weights(config, "again"), saved_weights(config, "whole"))


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_signal_in_the_middle_of_a_checkpoint_waits_for_it(
    data: Path, tmp_path: Path, alone: Ranks, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    saves = {"every_steps": 3, "asynchronous": asynchronous}
    config = make_config(data, tmp_path, checkpoint=saves, run={"epochs": 3})
    run(config, alone, "whole")
    real, sent = checkpoint.dcp.save, []

    def save(*args: Any, **kwargs: Any) -> Any:
        if not sent:
            sent.append(list(Path(kwargs["checkpoint_id"]).parent.glob(".half-*")))
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoint.dcp, "save", save)
    with (
        listening() as asked,
        RunLog(tmp_path / "asked", is_main=True, console=quiet_console()) as log,
        pytest.raises(Interrupted, match="resume with: --resume") as ended,
    ):
        train_one(config, alone, log, None, asked)
    assert sent[0], "nothing was being written"
    folder = tmp_path / "asked" / "checkpoints"
    assert not [path for path in folder.iterdir() if path.name.startswith(".half-")]
    assert ended.value.checkpoint == newest_first(folder)[0]
    run(config, alone, "again", ended.value.checkpoint)
    assert_same_weights(saved_weights(config, "again"), saved_weights(config, "whole"))


class _Later(Asked):
    """Asked when so many batches were read."""

    def __init__(self, after: int) -> None:
        self.left = after

    @property
    def now(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        self.left -= 1
        return self.left < 0

    @now.setter
    def now(self, value: bool) -> None:
        raise AssertionError("set by a handler alone")
