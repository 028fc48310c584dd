"""Jobs of many connections -> batches for the one thread that runs the model."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from dist_rec.serve.request_rows import Row

Done = list[tuple["Job", Any]]


class QueueFull(Exception):
    """So many requests wait that another one would wait too long."""


class Late(Exception):
    """A job has waited until its deadline, and nothing of it was done."""


class Closed(Exception):
    """The server stops, and takes nothing more."""


@dataclass
class Job:
    """- `group`: only jobs of the same object share a batch
    - `rows` of one body, with `candidates` in all
    - `deadline`, by `time.monotonic`
    - `future` for whoever waits
    """

    group: Any
    rows: list[Row]
    candidates: int
    deadline: float
    future: Any = None
    arrived: float = 0.0

    @property
    def size(self) -> int:
        return max(len(self.rows), 1)


@dataclass(frozen=True)
class BatchLimits:
    """A batch is closed `max_wait_s` after its first job, or when it has so many requests or candidates. At most
    `max_queue` requests wait."""

    max_wait_s: float = 0.002
    max_requests: int = 128
    max_candidates: int = 16_384
    max_queue: int = 512


class Batcher:
    """A thread that gives batches of jobs to `run`, one after the other, in the order in which they came.

    `run` returns what became of each job; an exception there is the outcome of all of them. `deliver` gets jobs with
    their outcomes, in that thread. `start` is called in it first."""

    def __init__(
        self,
        run: Callable[[list[Job]], Sequence[Any]],
        deliver: Callable[[Done], None],
        limits: BatchLimits,
        start: Callable[[], None] | None = None,
    ) -> None:
        self._run, self._deliver, self._limits, self._start = run, deliver, limits, start
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._requests = self._candidates = 0
        self._closing = self._idle = False
        self._thread = threading.Thread(target=self._loop, name="dist-rec-model", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Requests that wait."""
        return self._requests

    def put(self, job: Job) -> None:
        """Raises QueueFull or Closed; then the job will not be done. A body of many requests may always wait alone."""
        with self._changed:
            if self._closing:
                raise Closed
            if self._requests and self._requests + job.size > self._limits.max_queue:
                raise QueueFull
            job.arrived = time.monotonic()
            self._jobs.append(job)
            self._requests += job.size
            self._candidates += job.candidates
            if self._idle:
                self._changed.notify()

    def close(self) -> None:
        """Returns when all jobs that were put are done."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        if self._start is not None:
            self._start()
        while (batch := self._next()) is not None:
            now = time.monotonic()
            late = [job for job in batch if job.deadline <= now]
            if late:
                self._deliver([(job, Late()) for job in late])
            if batch := [job for job in batch if job.deadline > now]:
                try:
                    outcomes = self._run(batch)
                except Exception as error:  # the thread goes on whatever a batch does
                    outcomes = [error] * len(batch)
                self._deliver(list(zip(batch, outcomes, strict=True)))

    def _next(self) -> list[Job] | None:
        """The jobs of the next batch, when it is time for it; None when there will be none."""
        with self._changed:
            self._idle = True
            while not self._jobs:
                if self._closing:
                    return None
                self._changed.wait()
            end = self._jobs[0].arrived + self._limits.max_wait_s
            while not self._is_full() and not self._closing and (left := end - time.monotonic()) > 0:
                self._changed.wait(left)
            self._idle = False
            return self._taken()

    def _is_full(self) -> bool:
        return self._requests >= self._limits.max_requests or self._candidates >= self._limits.max_candidates

    def _taken(self) -> list[Job]:
        batch: list[Job] = []
        requests = candidates = 0
        while self._jobs:
            job = self._jobs[0]
            requests, candidates = requests + job.size, candidates + job.candidates
            fits = requests <= self._limits.max_requests and candidates <= self._limits.max_candidates
            if batch and (not fits or job.group is not batch[0].group):
                break
            batch.append(self._jobs.popleft())
            self._requests -= job.size
            self._candidates -= job.candidates
        return batch
