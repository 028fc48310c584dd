"""torchrun's agent of one host, for jobs that a scheduler may stop at any time and that outlive a worker's death.

It adds to torch's: signals are passed on to the workers, which then write a checkpoint; a failure is told in one line,
and not repeated where a restart cannot help; hosts tell each other over the store what has happened to their workers.
"""

import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch.distributed as dist
from torch.distributed.elastic.agent.server.api import DEFAULT_ROLE, RunResult, WorkerGroup, WorkerSpec, WorkerState
from torch.distributed.elastic.agent.server.local_elastic_agent import LocalElasticAgent
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

PASSED_ON = (signal.SIGTERM, signal.SIGUSR1)
MISTAKE = 2  # exit code of a worker for what no restart mends: a wrong recipe, bad data
# Schedulers send one SIGTERM by several ways, so only a later one is a second one.
SECOND_AFTER_S = 2.0
LAST_WORD_S = 10.0  # for the other hosts to hear why the job ends
NO_USE_S = 5  # for workers whose peers are gone: they wait for them, and will not write a checkpoint
ENDED, HEARD, LOST = "dist_rec/ended", "dist_rec/heard", "dist_rec/lost"  # in the store of a round


class EndedElsewhere(Exception):
    """Another host has ended the job, with this exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


@dataclass
class Job:
    """What the launcher wants to know when torchrun has returned."""

    interrupted: Path  # a worker that was interrupted writes it, and exits with 0
    grace_s: float
    asked: signal.Signals | None = None  # the signal that asked the job to stop
    began: bool = False  # workers have run on this host
    killed: str = ""  # why the launcher has killed the workers itself


def first_failure(failures: Mapping[int, ProcessFailure]) -> tuple[int, ProcessFailure]:
    """Rank and failure that came first. Of those seen at once a killed one counts: the others have failed of it. Torch
    itself ends the rest with SIGTERM."""

    def order(rank: int) -> tuple[int, bool]:
        failure = failures[rank]
        return failure.timestamp, failure.exitcode >= 0 or failure.exitcode == -signal.SIGTERM

    rank = min(failures, key=order)
    return rank, failures[rank]


def how_it_ended(failure: ProcessFailure) -> str:
    if failure.exitcode >= 0:
        return f"ended with exit code {failure.exitcode}"
    name = signal.Signals(-failure.exitcode).name
    why = "; the system does that to the largest process when memory runs out" if name == "SIGKILL" else ""
    return f"was ended by {name}{why}"


def exit_code(failure: ProcessFailure) -> int:
    return failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode


class Agent(LocalElasticAgent):
    def __init__(self, job: Job, spec: WorkerSpec, **options: Any) -> None:
        """options: what the launcher of this version of torch passes besides."""
        super().__init__(spec=spec, **options)
        self.job = job
        self.phase = "meeting"  # then "starting" and "running"
        self.asked_at = 0.0
        for signum in PASSED_ON:
            signal.signal(signum, self._on_signal)

    def run(self, role: str = DEFAULT_ROLE) -> RunResult:
        """torch returns nothing to a host that was more than the job could use, and then fails of it."""
        try:
            return super().run(role) or RunResult(state=WorkerState.SUCCEEDED)
        finally:
            self.end_hard()

    def end_hard(self, why: str = "") -> None:
        """Leaves no worker behind."""
        for handler in self._handlers():
            if handler.proc.poll() is None:
                self.job.killed = self.job.killed or why
                with suppress(ProcessLookupError):  # it has just ended
                    handler.close(signal.SIGKILL)

    def _handlers(self) -> list[Any]:
        return list(getattr(self._pcontext, "subprocess_handlers", {}).values())

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        received, now = signal.Signals(signum), time.monotonic()
        if self.phase == "meeting":  # no worker has anything to save
            self.job.asked = received
            raise SignalException(f"got {received.name}", received)
        if self.job.asked is None:
            after = f"{self.job.grace_s:g} s after {received.name} (DIST_REC_GRACE_S)"
            timer = threading.Timer(self.job.grace_s, self.end_hard, [f"had not ended {after}"])
            timer.daemon = True
            timer.start()
        if received is signal.SIGTERM:
            if self.asked_at and now - self.asked_at > SECOND_AFTER_S:
                self.end_hard("had not ended before a second SIGTERM came")
            self.asked_at = self.asked_at or now
        self.job.asked = received
        if self.phase == "running":
            self._pass_on(received)

    def _pass_on(self, received: signal.Signals) -> None:
        """To the workers alone: processes of their own are still needed for the checkpoint."""
        for handler in self._handlers():
            handler.proc.send_signal(received)

    def _rendezvous(self, worker_group: WorkerGroup) -> None:
        self.phase = "meeting"
        if self.job.asked:  # while hosts came or went
            raise SignalException(f"got {self.job.asked.name}", self.job.asked)
        super()._rendezvous(worker_group)

    def _start_workers(self, worker_group: WorkerGroup) -> dict[int, Any]:
        self.phase = "starting"
        self.job.interrupted.unlink(missing_ok=True)  # workers that make room for a new host write it too
        worker_ids = super()._start_workers(worker_group)
        self.phase, self.job.began = "running", True
        if self.job.asked:
            self._pass_on(self.job.asked)
        return worker_ids

    def _monitor_workers(self, worker_group: WorkerGroup) -> RunResult:
        result = super()._monitor_workers(worker_group)
        if result.state is WorkerState.HEALTHY:
            if self._told(ENDED):
                self._store_of_round().add(HEARD, 1)
                raise EndedElsewhere(int(self._store_of_round().get(ENDED)))
        elif result.is_failed():
            self._after_failure(result)
        return result

    def _after_failure(self, result: RunResult) -> None:
        rank, failure = first_failure(result.failures)
        restarts = self._worker_group.spec.max_restarts
        if self._told(ENDED):
            self._remaining_restarts = 0
        elif self.job.asked or failure.exitcode == MISTAKE or self._remaining_restarts == 0:
            self._remaining_restarts = 0
            self._end_everywhere(exit_code(failure))
        else:
            this = restarts - self._remaining_restarts + 1
            place = f"rank {rank} on {socket.gethostname()}"
            print(f"restart {this} of {restarts}: {place} {how_it_ended(failure)}", file=sys.stderr, flush=True)
            with suppress(dist.DistError, RuntimeError):
                self._store_of_round().set(LOST, str(rank))

    def _end_everywhere(self, code: int) -> None:
        """Waits until all hosts know the code, or the wait is over: this one may be where the store lives."""
        hosts = self._worker_group.group_world_size or 1
        with suppress(dist.DistError, RuntimeError):  # whoever kept the store is gone
            self._store_of_round().set(ENDED, str(code))
            end = time.monotonic() + LAST_WORD_S
            heard = self._store_of_round().add(HEARD, 1)
            while heard < hosts and time.monotonic() < end:
                time.sleep(0.1)
                heard = self._store_of_round().add(HEARD, 0)

    def _stop_workers(self, worker_group: WorkerGroup) -> None:
        """Before a restart because hosts came or went: torch gives 30 s, in which a checkpoint may not be done."""
        if self._pcontext:
            self._pcontext.close(signal.SIGTERM, NO_USE_S if self._told(LOST) else int(self.job.grace_s))
        super()._stop_workers(worker_group)

    def _store_of_round(self) -> dist.Store:
        assert self._store is not None, "workers run, so hosts have met"
        return self._store

    def _told(self, key: str) -> bool:
        """False too if whoever keeps the store is gone: the next rendezvous says so."""
        try:
            return self._store_of_round().check([key])
        except (dist.DistError, RuntimeError):
            return False
