"""Positions of a loader that is read ahead; what batches are made of it is tested in test_dedup_loader.py."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from dist_rec.data.ahead import KEPT_POSITIONS, Ahead, Failed, position_of


class Counting:
    """A loader whose state is how far it has read, in one dict that it changes."""

    def __init__(self, count: int) -> None:
        self.count, self.state = count, {"read": 0}

    def __iter__(self) -> Iterator[int]:
        while self.state["read"] < self.count:
            self.state["read"] += 1
            yield self.state["read"] - 1
        self.state["read"] = 0

    def state_dict(self) -> dict[str, Any]:
        return self.state


def _read_ahead(loader: Counting, batches: int) -> None:
    deadline = time.monotonic() + 10
    while loader.state["read"] < batches and time.monotonic() < deadline:
        time.sleep(0.001)


def test_positions_are_of_what_was_handed_out() -> None:
    loader = Counting(10)
    ahead = Ahead(loader, lambda batch: batch, prefetch=3)
    batches = ahead.batches()
    assert [next(batches) for _ in range(2)] == [0, 1]
    _read_ahead(loader, 6)
    assert loader.state == {"read": 6}
    assert list(ahead.positions) == [{"read": 0}, {"read": 1}, {"read": 2}] and ahead.end is None
    assert list(batches) == [*range(2, 10)] and ahead.end == {"read": 0} and ahead.positions[-1] == {"read": 10}
    ahead.stop()


def test_a_bounded_number_is_kept() -> None:
    ahead = Ahead(Counting(100), lambda batch: batch, prefetch=2)
    assert list(ahead.batches()) == [*range(100)]
    assert [of["read"] for of in ahead.positions if isinstance(of, dict)] == [*range(100 - KEPT_POSITIONS, 101)]


def test_a_position_that_cannot_be_had_stops_nobody_else() -> None:
    class Broken(Counting):
        def state_dict(self) -> dict[str, Any]:
            raise OSError("no position")

    ahead = Ahead(Broken(3), lambda batch: batch, prefetch=2)
    assert list(ahead.batches()) == [0, 1, 2]
    assert isinstance(ahead.end, Failed) and str(ahead.end.error) == "no position"
    assert position_of([1]) is None


def test_who_still_asks_for_batches_is_told() -> None:
    ahead = Ahead(Counting(10), lambda batch: batch, prefetch=2)
    batches = ahead.batches()
    next(batches)
    ahead.stop("as the test wants it")
    with pytest.raises(RuntimeError, match="this iteration of the DedupLoader is over, as the test wants it"):
        next(batches)
    assert not any(thread.name == "DedupLoader" for thread in threading.enumerate())
