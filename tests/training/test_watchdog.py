"""A run that stands still says where every rank stands, and whom the others wait for."""

import threading
import time
from pathlib import Path

import pytest

from dist_rec.training import watchdog
from dist_rec.training.ranks import Ranks
from dist_rec.training.watchdog import EXIT, FOLDER, PROGRESS, Place, read_places, verdict, watching, write_place
from tests.helpers.ranks import run_ranks
from tests.training.runs import these_ranks


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watchdog, "LOOK_S", 0.05)
    monkeypatch.setattr(watchdog, "ANSWER_S", 0.3)


def test_progress_is_left_alone(tmp_path: Path, alone: Ranks) -> None:
    ended: list[int] = []
    with watching(tmp_path, alone, 1, ended.append):
        for step in range(12):
            PROGRESS.at("training", step)
            time.sleep(0.15)
    assert not ended and not (tmp_path / FOLDER).exists()
    assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def test_a_clock_that_was_set_back_calls_nobody_to_end(
    tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An earlier start that stood still has left a folder of the same time."""
    monkeypatch.setattr(time, "strftime", lambda form: "20240229-120000")
    ended: list[int] = []
    for name in ("20240229-120000", "20240229-120000_2"):
        (tmp_path / FOLDER / name).mkdir(parents=True)
    with watching(tmp_path, alone, 60, ended.append):
        time.sleep(0.5)
    assert not ended


def test_standing_still_ends_the_process_with_its_stacks(
    tmp_path: Path, alone: Ranks, capfd: pytest.CaptureFixture[str]
) -> None:
    ended: list[int] = []
    with watching(tmp_path, alone, 1, ended.append):
        PROGRESS.at("training", 41)
        _sleep_long()
    assert ended == [EXIT]
    said = capfd.readouterr().err
    assert "error: no progress: the others wait for rank 0" in said and "rank 0: step 41, training for" in said
    (folder,) = (tmp_path / FOLDER).iterdir()
    stacks = (folder / "rank-0.txt").read_text()
    assert "_sleep_long" in stacks and "test_watchdog.py" in stacks and f"stacks of all threads: {folder}" in said


def _sleep_long() -> None:
    time.sleep(3)


def test_without_a_limit_nobody_watches(tmp_path: Path, alone: Ranks) -> None:
    with watching(tmp_path, alone, None):
        assert "watchdog" not in [thread.name for thread in threading.enumerate()]


def _one_stands_still(folder: Path) -> list[int]:
    watchdog.LOOK_S, watchdog.ANSWER_S = 0.05, 1.0
    ranks, ended = these_ranks(), []
    with watching(folder, ranks, 1, ended.append):
        PROGRESS.at("training", 7)
        if ranks.rank == 1:
            _sleep_long()
        ranks.total(1.0)
    return ended


def test_the_rank_that_holds_the_others_up_is_named(tmp_path: Path) -> None:
    """Rank 0 waits in an all-reduce for rank 1, which sleeps."""
    assert run_ranks(_one_stands_still, 2, tmp_path) == [[EXIT], [EXIT]]
    (folder,) = (tmp_path / FOLDER).iterdir()
    first, second = read_places(folder)
    assert first.collective == "all_reduce" and second.collective is None
    assert second.line.endswith("_sleep_long")
    assert verdict(folder, 2).startswith("error: no progress: the others wait for rank 1\n")


def _write(folder: Path, *places: Place) -> None:
    for place in places:
        PROGRESS.at(place.stage, place.step)
        write_place(folder, place.rank)
        path = folder / f"rank-{place.rank}.txt"
        line, *rest = path.read_text().splitlines()
        path.write_text("\n".join([line.replace('"collective": null', f'"collective": "{place.collective}"'), *rest]))


def test_a_rank_without_an_answer_is_named(tmp_path: Path) -> None:
    _write(tmp_path, Place(0, 5, "training", 0, "all_reduce", ""), Place(2, 5, "training", 0, "all_reduce", ""))
    assert "no progress: rank 1 gives no answer" in verdict(tmp_path, 3)


def test_ranks_of_different_steps_are_told_apart(tmp_path: Path) -> None:
    """Such as where one rank has a batch more."""
    _write(tmp_path, Place(0, 5, "training", 0, "all_reduce", ""), Place(1, 4, "training", 0, "barrier", ""))
    assert "the others wait for rank 1" in verdict(tmp_path, 2)
    assert "rank 1: step 4, training for 0 s, waits in barrier" in verdict(tmp_path, 2)
    _write(tmp_path, Place(1, 5, "training", 0, "barrier", ""))
    assert "all ranks wait in collectives" in verdict(tmp_path, 2)
