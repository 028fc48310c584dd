"""Listeners hear a run from its start to its end, and one that raises is said once and hears no more."""

import logging
from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import Strict
from dist_rec.training.listener import Ending, Listener, Listeners


class Heard(Listener):
    """A stand-in for a tracker's client."""

    def __init__(self, options: Strict) -> None:
        super().__init__(options)
        self.heard: list[Any] = []

    def start(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.heard.append((folder.name, recipe["run"]))

    def __call__(self, record: dict[str, Any]) -> None:
        self.heard.append(record)

    def end(self, ending: Ending) -> None:
        self.heard.append(ending)


class Fails(Heard):
    def __call__(self, record: dict[str, Any]) -> None:
        super().__call__(record)
        raise ConnectionError("no route")


class Changes(Listener):
    def __call__(self, record: dict[str, Any]) -> None:
        record.clear()


def _run(*of: Listener) -> None:
    listeners = Listeners(of)
    listeners.start(Path("runs/x"), {"run": 1})
    for step in (1, 2):
        listeners({"event": "train", "step": step})
    listeners.end("finished")


def test_all_hear_everything_in_order() -> None:
    first, second = Heard(Strict()), Heard(Strict())
    _run(first, second)
    told = [("x", 1), {"event": "train", "step": 1}, {"event": "train", "step": 2}, "finished"]
    assert first.heard == second.heard == told


def test_one_that_raises_is_said_once_and_does_not_stop_the_others(caplog: pytest.LogCaptureFixture) -> None:
    fails, hears = Fails(Strict()), Heard(Strict())
    with caplog.at_level(logging.WARNING):
        _run(fails, hears)
    assert len(fails.heard) == 2 and len(hears.heard) == 4
    assert caplog.messages == [
        "run.listeners: Fails failed at train of step 1 and hears no more of this run: ConnectionError: no route"
    ]


def test_what_one_does_to_a_record_is_its_own() -> None:
    hears = Heard(Strict())
    _run(Changes(Strict()), hears)
    assert hears.heard[1] == {"event": "train", "step": 1}


def test_a_listener_says_what_it_does_with_a_record(caplog: pytest.LogCaptureFixture) -> None:
    _run(Listener(Strict()))
    assert len(caplog.messages) == 1 and "Listener failed at train of step 1" in caplog.text
