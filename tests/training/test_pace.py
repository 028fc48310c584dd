"""Rests between pieces of work, which nobody has to wait for."""

import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter

from dist_rec.training import pace
from dist_rec.training.pace import LONGEST_S, SHARE, Pace, PacedPlanner


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[float | None]:
    """What was waited for, at once."""
    found: list[float | None] = []

    def wait(self: threading.Event, timeout: float | None = None) -> bool:
        if not self.is_set():
            found.append(timeout)
        return self.is_set()

    monkeypatch.setattr(threading.Event, "wait", wait)
    return found


def test_a_rest_is_as_long_as_the_work_asks(rests: list[float | None], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [5.0]
    monkeypatch.setattr(pace.time, "thread_time", lambda: now[0])
    of = Pace()
    of.begin()
    for worked in (0.001, 0.0005, 3.0):
        now[0] += worked
        of.rest()
    assert rests == pytest.approx([0.001 * (1 - SHARE) / SHARE, 0.0005 * (1 - SHARE) / SHARE, LONGEST_S])


def test_nobody_who_hurries_waits_for_a_rest(rests: list[float | None]) -> None:
    of = Pace()
    of.hurry()
    of.rest()
    assert not rests
    of.start()
    of.rest()
    assert len(rests) == 1


def test_a_hurry_ends_a_rest_that_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pace, "LONGEST_S", 600.0)
    of = Pace()
    of.begin()
    monkeypatch.setattr(pace.time, "thread_time", lambda: time.monotonic() + 1e6)
    thread = threading.Thread(target=of.rest, daemon=True)
    thread.start()
    of.hurry()
    thread.join(60)
    assert not thread.is_alive()


def test_a_save_rests_before_every_tensor(tmp_path: Path, rests: list[float | None]) -> None:
    state = {f"part{number}": torch.full((3,), float(number)) for number in range(5)}
    files = FileSystemWriter(tmp_path, per_thread_copy_ahead=0)
    dcp.save(state, storage_writer=files, planner=PacedPlanner(Pace()), no_dist=True)
    assert len(rests) == 5
    found = {name: torch.zeros(3) for name in state}
    dcp.load(found, checkpoint_id=tmp_path, no_dist=True)
    assert all(torch.equal(found[name], state[name]) for name in state)
