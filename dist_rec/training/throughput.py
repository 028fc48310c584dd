"""Throughput and loss over the steps between two log lines."""

import resource
import time
from collections.abc import Mapping
from dataclasses import astuple, dataclass, field

import torch
from torch import Tensor

from dist_rec.data.filter.actions import Action
from dist_rec.data.ngram.counts import NgramUse
from dist_rec.models.signals import SUMS, Teaching
from dist_rec.training.pipeline import BatchSize
from dist_rec.training.ranks import Ranks
from dist_rec.training.stage_clock import STAGES, StageClock

_ACTIONS = [action.name.lower() for action in Action]
_SUMMED = [name for name in BatchSize.__dataclass_fields__ if name not in ("filtered", "ngram_use")]


@dataclass(frozen=True)
class ThroughputStats:
    """Means over a window, all ranks together. Events and bytes are per step and rank; seconds are wall time of this
    rank."""

    loss: float
    steps: int
    seconds: float
    candidates_per_s: float
    requests_per_s: float
    events_per_s: float
    events_per_step: float
    largest_events_per_step: float  # of the rank that had most in the step, which the others wait for
    bytes_per_step: float
    plain_bytes_per_step: float
    waiting_share: float  # of the time, in which steps waited for their batch
    memory_bytes: float  # most of a rank: allocated on its GPU in the window, or resident since its start
    stage_ms: dict[str, float] = field(default_factory=dict)  # of the host in a step, see `StageClock`; empty without
    lost_requests: float = 0  # of row groups that could not be read and are skipped
    nonfinite: tuple[int, ...] = ()  # steps of the window, from 0, whose loss on this rank is infinite or NaN
    # Of the events and candidates that a filter saw, by action; empty without one.
    filtered_share: dict[str, float] = field(default_factory=dict)
    # By "<sequence>.<field>.<order>"; distinct rows of the batch of a rank.
    ngram_use: dict[str, NgramUse] = field(default_factory=dict)
    # By task, with a teacher.
    teaching: dict[str, Teaching] = field(default_factory=dict)


class Throughput:
    """Adds up steps without touching the device until it is closed. `taught`: tasks of the log, and their place among
    all tasks. Comm: two host all-reduces per `close`."""

    def __init__(self, ranks: Ranks, taught: Mapping[str, int] | None = None, clock: StageClock | None = None) -> None:
        self._ranks, self._taught, self._clock = ranks, taught or {}, clock
        self.restart()

    def restart(self) -> None:
        """Forgets what was added; also the time that went by, such as an evaluation's."""
        self._losses: list[Tensor] = []
        self._sizes: list[BatchSize] = []
        self._signals: list[Tensor] = []
        self._started = time.perf_counter()
        if self._clock is not None:
            self._clock.restart()

    def add(self, loss: Tensor, size: BatchSize, signals: Tensor) -> None:
        """`signals` (S, T) as in `teaching_signals`; empty without a teacher."""
        self._losses.append(loss)
        self._sizes.append(size)
        self._signals.append(signals)

    def close(self) -> ThroughputStats:
        """Statistics of the steps since the last call. Reading the losses waits for the device."""
        steps = len(self._losses)
        grams = {
            name: sum((size.ngram_use[name] for size in self._sizes), NgramUse(0, 0, 0))
            for name in self._sizes[0].ngram_use
        }
        losses = torch.stack(self._losses).double()
        nonfinite = tuple(torch.nonzero(~losses.isfinite()).flatten().tolist())
        mine = [
            float(losses.sum()),
            *(sum(getattr(size, name) for size in self._sizes) for name in _SUMMED),
            *(sum(size.filtered.get(name, 0) for size in self._sizes) for name in _ACTIONS),
            *(float(count) for use in grams.values() for count in astuple(use)),
            *self._sums_of_signals(),
            *(self._clock.read() if self._clock is not None else ()),
        ]
        seconds = time.perf_counter() - self._started
        loss, requests, candidates, events, nbytes, plain_bytes, waited, lost, *rest = self._ranks.total(*mine)
        acted, used = rest[: len(_ACTIONS)], iter(rest[len(_ACTIONS) :])
        *most_events, memory = self._ranks.largest(*(size.events for size in self._sizes), _memory(self._ranks.device))
        rank_steps = steps * self._ranks.world_size
        self.restart()
        return ThroughputStats(
            loss=loss / rank_steps,
            steps=steps,
            seconds=seconds,
            candidates_per_s=candidates / seconds,
            requests_per_s=requests / seconds,
            events_per_s=events / seconds,
            events_per_step=events / rank_steps,
            largest_events_per_step=sum(most_events) / steps,
            bytes_per_step=nbytes / rank_steps,
            plain_bytes_per_step=plain_bytes / rank_steps,
            waiting_share=waited / (seconds * self._ranks.world_size),
            memory_bytes=memory,
            lost_requests=lost,
            nonfinite=nonfinite,
            filtered_share={
                name: count / sum(acted)
                for name, count in zip(_ACTIONS, acted, strict=True)
                if count and name != Action.KEEP.name.lower()
            },
            ngram_use={name: NgramUse(int(next(used)), int(next(used)), int(next(used))) for name in grams},
            teaching={task: Teaching.of([next(used) for _ in SUMS]) for task in self._taught},
            stage_ms={stage: 1e3 * seconds / rank_steps for stage, seconds in zip(STAGES, used)},
        )

    def _sums_of_signals(self) -> list[float]:
        """Of every task in turn."""
        if not self._taught:
            return []
        sums = torch.stack(self._signals).double().sum(0)[:, list(self._taught.values())]
        return sums.T.flatten().tolist()


def _memory(device: torch.device) -> float:
    """Bytes that torch has allocated on a GPU at most since the last call; without one, resident memory at most."""
    if device.type == "cuda":
        most = torch.cuda.max_memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        return float(most)
    return 1024.0 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # kilobytes on Linux
