"""A server without its HTTP: states, the running export, the batches, and what is counted."""

import asyncio
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from dist_rec.common.strict import ConfigError
from dist_rec.serve.cache import StateCache, StateStore
from dist_rec.serve.disk_store import DiskStore
from dist_rec.serve.redis_store import RedisStore
from dist_rec.serve.request_rows import Refused, Row
from dist_rec.serve.server.batcher import Batcher, BatchLimits, Done, Job
from dist_rec.serve.server.live import Live, Running
from dist_rec.serve.server.metrics import Metrics
from dist_rec.serve.server.settings import MIB, Settings
from dist_rec.serve.service import Answer, Result
from dist_rec.serve.user_states import UserStates

_logger = logging.getLogger(__name__)


class Forget:
    """The group of a job that forgets a user; it shares its batch with nothing."""

    def __init__(self, running: Running, user: str) -> None:
        self.running, self.user = running, user


class Core:
    """Made and used in a running event loop; the model has a thread of its own.

    `store`: the second tier, which is closed with it."""

    def __init__(self, settings: Settings, store: StateStore | None = None) -> None:
        self.settings = settings
        self.states = UserStates(StateCache(settings.cache_mb * MIB), store)
        self.live = Live(self.states, settings)
        self._loop = asyncio.get_running_loop()
        limits = BatchLimits(
            settings.max_wait_ms / 1e3, settings.max_batch_requests, settings.max_batch_candidates, settings.max_queue
        )
        self._batcher = Batcher(self._run, self._deliver, limits, lambda: torch.set_num_threads(settings.threads))
        self.metrics = Metrics(
            self.states.counts,
            lambda: self._batcher.waiting,
            lambda: None if (of := self.live.running) is None else of.version,
        )

    @property
    def full(self) -> bool:
        """Whether a request would be refused: known before its body is looked at, which costs more than to say so."""
        return self._batcher.waiting >= self.settings.max_queue

    async def handle(self, running: Running, rows: list[Row], deadline: float) -> "list[Result] | Refused":
        """Raises QueueFull, Late, Closed, or what the model raised."""
        candidate = running.service.engine.schema.candidate.ids[0].name
        candidates = sum(len(row.values[f"candidate.{candidate}"]) for row in rows)
        return await self._done(Job(running, rows, candidates, deadline))

    async def forget(self, running: Running, user: str, deadline: float) -> None:
        """In the order of requests. Raises OSError if a store cannot be reached, and as `handle`."""
        await self._done(Job(Forget(running, user), [], 0, deadline))

    async def load(self, path: Path) -> Running:
        """Raises ConfigError; then the export before goes on."""
        try:
            running = await asyncio.to_thread(self.live.load, path)
        except Exception as error:
            self.metrics.reloads.labels("refused").inc()
            if isinstance(error, ConfigError):
                raise
            _logger.exception("an export cannot be loaded")
            raise ConfigError(f"{path}: cannot be loaded: {error!r}") from error
        self.metrics.reloads.labels("taken").inc()
        return running

    def close(self) -> None:
        """Finishes what waits, then writes states to their store."""
        self._batcher.close()
        self.states.close()

    async def _done(self, job: Job) -> Any:
        job.future = self._loop.create_future()
        self._batcher.put(job)
        return await job.future

    def _run(self, jobs: list[Job]) -> Sequence[Any]:
        """In the thread of the model."""
        group, started = jobs[0].group, time.monotonic()
        if isinstance(group, Forget):
            group.running.service.forget([group.user])
            return [None]
        for job in jobs:
            self.metrics.queue_seconds.observe(started - job.arrived)
        self.metrics.batch_requests.observe(sum(job.size for job in jobs))
        self.metrics.batch_candidates.observe(sum(job.candidates for job in jobs))
        found = self._answers(group, jobs)
        self.metrics.batch_seconds.observe(time.monotonic() - started)
        for job, of in zip(jobs, found, strict=True):
            self._count(job, of)
        return found

    def _answers(self, running: Running, jobs: list[Job]) -> list[Any]:
        try:
            return list(running.service.handle([job.rows for job in jobs]))
        except Exception as error:
            _logger.exception("a batch of %d bodies failed", len(jobs))
            if len(jobs) == 1:
                return [error]
        # Nothing was kept of the batch. Each alone: the others must not suffer from one.
        return [self._answers(running, [job])[0] for job in jobs]

    def _count(self, job: Job, found: Any) -> None:
        if not isinstance(found, list):
            return
        scored = [of for row, of in zip(job.rows, found, strict=True) if row.scored and isinstance(of, Answer)]
        for of in scored:
            self.metrics.scored.labels("cached" if of.cached else "computed").inc()
        self.metrics.candidates.inc(sum(len(next(iter(of.scores.values()), [])) for of in scored))

    def _deliver(self, done: Done) -> None:
        if not self._loop.is_closed():  # else nobody waits any more
            self._loop.call_soon_threadsafe(_resolve, done)


def open_store(settings: Settings) -> StateStore | None:
    """Raises ConfigError if it cannot be used."""
    if settings.disk is not None:
        return DiskStore(settings.disk, settings.disk_mb * MIB)
    return None if settings.redis is None else RedisStore.of_url(settings.redis, ttl_s=settings.redis_ttl_s)


def _resolve(done: Done) -> None:
    for job, outcome in done:
        if job.future.done():  # whoever waited has gone
            continue
        if isinstance(outcome, Exception) and not isinstance(outcome, Refused):
            job.future.set_exception(outcome)
        else:
            job.future.set_result(outcome)
