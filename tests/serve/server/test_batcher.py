"""Batches close in time, in order, within their limits, and every job gets its outcome."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from dist_rec.serve.request_rows import Row
from dist_rec.serve.server.batcher import Batcher, BatchLimits, Closed, Done, Job, Late, QueueFull

ROW = Row({}, "kept")


class Bench:
    """A batcher whose batches wait for `go`, and what it did."""

    def __init__(self, **limits: Any) -> None:
        self.batches: list[list[Job]] = []
        self.done: Done = []
        self.go, self.entered = threading.Event(), threading.Event()
        self.go.set()
        self.batcher = Batcher(self._run, self.done.extend, BatchLimits(**limits))

    def _run(self, jobs: list[Job]) -> list[Any]:
        self.batches.append(jobs)
        self.entered.set()
        assert self.go.wait(20)
        if any(job.candidates == 13 for job in jobs):
            raise ZeroDivisionError
        return [job.candidates for job in jobs]

    def hold(self) -> None:
        """The thread is inside a batch until `go`."""
        self.go.clear()
        self.entered.clear()
        self.batcher.put(job(1))
        assert self.entered.wait(20)

    @property
    def sizes(self) -> list[int]:
        return [len(batch) for batch in self.batches]


def job(candidates: int = 1, rows: int = 1, group: Any = None, seconds: float = 60) -> Job:
    return Job(group, [ROW] * rows, candidates, time.monotonic() + seconds)


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    made: list[Bench] = []

    def make(**limits: Any) -> Bench:
        made.append(Bench(**limits))
        return made[-1]

    yield make
    for each in made:
        each.go.set()
        each.batcher.close()


def test_what_comes_meanwhile_is_one_batch(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0)
    of.hold()
    for number in range(2, 8):
        of.batcher.put(job(number))
    assert of.batcher.waiting == 6
    of.go.set()
    of.batcher.close()
    assert of.sizes == [1, 6] and [outcome for _, outcome in of.done] == list(range(1, 8))


def test_a_batch_waits_for_more_and_closes_when_it_is_full(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=30, max_requests=3, max_candidates=100)
    started = time.monotonic()
    for _ in range(3):
        of.batcher.put(job())
    assert of.entered.wait(20) and time.monotonic() - started < 20 and of.sizes == [3]
    of.entered.clear()
    of.batcher.put(job(100))
    assert of.entered.wait(20) and of.sizes == [3, 1]


def test_a_batch_closes_after_its_time(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0.2)
    started = time.monotonic()
    of.batcher.put(job())
    assert of.entered.wait(20)
    assert 0.19 < time.monotonic() - started < 10


def test_limits_of_a_batch(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0, max_requests=4, max_candidates=10)
    of.hold()
    for each in (job(2, rows=3), job(2, rows=1), job(2, rows=1), job(9), job(50), job(1)):
        of.batcher.put(each)
    of.go.set()
    of.batcher.close()
    assert of.sizes == [1, 2, 1, 1, 1, 1]


def test_groups_do_not_mix_and_keep_their_order(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0)
    of.hold()
    one, other = object(), object()
    for group in (one, one, other, one):
        of.batcher.put(job(group=group))
    of.go.set()
    of.batcher.close()
    assert of.sizes == [1, 2, 1, 1]


def test_a_full_queue_refuses_and_a_late_job_is_not_done(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0, max_queue=3)
    of.hold()
    of.batcher.put(job(2, seconds=0.01))
    of.batcher.put(job(3, rows=2))
    with pytest.raises(QueueFull):
        of.batcher.put(job(4))
    time.sleep(0.02)
    of.go.set()
    of.batcher.close()
    outcomes = {job.candidates: outcome for job, outcome in of.done}
    assert isinstance(outcomes[2], Late) and outcomes[3] == 3 and len(outcomes) == 3
    assert [each.candidates for each in of.batches[1]] == [3]


def test_a_large_body_may_wait_alone(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0, max_queue=3)
    of.batcher.put(job(rows=9))
    of.batcher.close()
    assert len(of.done) == 1


def test_an_exception_is_the_outcome_of_its_batch_alone(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0)
    of.batcher.put(job(13))
    while not of.done:
        time.sleep(0.001)
    of.batcher.put(job(5))
    of.batcher.close()
    assert isinstance(of.done[0][1], ZeroDivisionError) and of.done[1][1] == 5


def test_closing_finishes_what_waits_at_once_and_takes_no_more(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=30)
    of.batcher.put(job(1))
    of.batcher.put(job(2))
    started = time.monotonic()
    of.batcher.close()
    assert time.monotonic() - started < 20 and [outcome for _, outcome in of.done] == [1, 2]
    with pytest.raises(Closed):
        of.batcher.put(job())


def test_many_threads(bench: Callable[..., Bench]) -> None:
    of = bench(max_wait_s=0.001, max_requests=16, max_queue=10**6)

    def put() -> None:
        for number in range(300):
            of.batcher.put(job(number % 7))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    of.batcher.close()
    assert len(of.done) == 1200 and all(outcome == each.candidates for each, outcome in of.done)
    assert max(of.sizes) <= 16 and of.batcher.waiting == 0
