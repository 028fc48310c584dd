"""Sums over ranks and time, by hand."""

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dist_rec.data.ngram.counts import NgramUse
from dist_rec.models.signals import SUMS, Teaching
from dist_rec.training import throughput as throughput_module
from dist_rec.training.pipeline import BatchSize
from dist_rec.training.throughput import Throughput

ONE = BatchSize(requests=1, candidates=1, events=1, nbytes=1, plain_bytes=1, waited=0.0)
NONE = torch.zeros(0, 1)  # signals without a teacher


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(throughput_module.time, "perf_counter", lambda: clock.now)
    return clock


def _two_alike() -> Any:
    """Two ranks with the same numbers."""
    return SimpleNamespace(
        world_size=2,
        device=torch.device("cpu"),
        total=lambda *values: [2 * value for value in values],
        largest=lambda *values: list(values),
    )


def test_means_over_steps_and_ranks(clock: SimpleNamespace) -> None:
    window = Throughput(_two_alike())
    window.add(
        torch.tensor(0.5),
        BatchSize(requests=4, candidates=8, events=100, nbytes=1000, plain_bytes=4000, waited=0.5),
        NONE,
    )
    window.add(
        torch.tensor(0.25),
        BatchSize(requests=2, candidates=6, events=50, nbytes=600, plain_bytes=2000, waited=0.1),
        NONE,
    )
    clock.now += 2.0
    stats = window.close()
    assert (stats.loss, stats.steps, stats.seconds) == (0.375, 2, 2.0)
    assert (stats.requests_per_s, stats.candidates_per_s, stats.events_per_s) == (6.0, 14.0, 150.0)
    assert stats.events_per_step == stats.largest_events_per_step == 75.0
    assert (stats.bytes_per_step, stats.plain_bytes_per_step) == (800.0, 3000.0)
    assert stats.waiting_share == pytest.approx(0.3), "0.6 of 2 seconds on each rank"
    assert 1e8 < stats.memory_bytes < 1e12, "torch is loaded"


def test_the_rank_with_most_events_counts_in_every_step() -> None:
    """Steps of 100 and 50 events, and of 40 and 60, on two ranks."""
    ranks: Any = SimpleNamespace(
        world_size=2,
        device=torch.device("cpu"),
        total=lambda *_: [1.0, 1, 1, 250, 1, 1, 1, 0, 6, 0, 2, 0, 2],
        largest=lambda *_: [100, 60, 7e9],
    )
    window = Throughput(ranks)
    for events in (100, 40):
        window.add(torch.tensor(1.0), replace(ONE, events=events), NONE)
    stats = window.close()
    assert (stats.events_per_step, stats.largest_events_per_step) == (62.5, 80.0)
    assert stats.memory_bytes == 7e9, "of the rank with most"


def test_the_use_of_n_grams_is_summed_over_steps_and_ranks(clock: SimpleNamespace) -> None:
    window = Throughput(_two_alike())
    clock.now += 1.0
    for events, rows in ((10, 7), (20, 9)):
        use = {"history.item.2": NgramUse(events, 2 * events, rows)}
        window.add(torch.tensor(1.0), replace(ONE, ngram_use=use), NONE)
    assert window.close().ngram_use == {"history.item.2": NgramUse(60, 120, 32)}


def test_a_closed_window_starts_anew(clock: SimpleNamespace) -> None:
    window = Throughput(_two_alike())
    window.add(torch.tensor(9.0), ONE, NONE)
    clock.now += 1.0
    window.close()
    window.add(torch.tensor(1.0), ONE, NONE)
    clock.now += 4.0
    assert (stats := window.close()).loss == 1.0
    assert (stats.steps, stats.seconds) == (1, 4.0)


def test_a_restart_forgets_the_time_of_an_evaluation(clock: SimpleNamespace) -> None:
    window = Throughput(_two_alike())
    clock.now += 60.0
    window.restart()
    window.add(torch.tensor(1.0), replace(ONE, requests=3), NONE)
    clock.now += 1.0
    assert window.close().requests_per_s == 6.0


def test_what_a_teacher_says_is_summed_over_steps_and_ranks(clock: SimpleNamespace) -> None:
    """Of the tasks with a teacher alone, beside the n-grams that stand before them in the all-reduce."""
    window = Throughput(_two_alike(), {"rate": 2, "buy": 0})
    steps = [torch.arange(float(len(SUMS) * 3)).view(len(SUMS), 3) + 100 * step for step in range(2)]
    clock.now += 1.0
    for signals in steps:
        window.add(torch.tensor(1.0), replace(ONE, ngram_use={"history.item.2": NgramUse(1, 2, 1)}), signals)
    stats = window.close()
    sums = 2 * (steps[0] + steps[1])
    expected = {task: Teaching.of(sums[:, place].tolist()) for task, place in (("rate", 2), ("buy", 0))}
    assert stats.teaching == expected and list(stats.teaching) == ["rate", "buy"]
    assert stats.ngram_use == {"history.item.2": NgramUse(4, 8, 4)}


def test_signals_of_before_are_forgotten(clock: SimpleNamespace) -> None:
    window = Throughput(_two_alike(), {"buy": 0})
    for value in (1.0, 3.0):
        signals = torch.ones(len(SUMS), 1)
        signals[SUMS.index("gap")] = value
        window.add(torch.tensor(1.0), ONE, signals)
        clock.now += 1.0
        assert window.close().teaching["buy"].agreement == 1 - value / 2
    window.add(torch.tensor(1.0), ONE, torch.ones(len(SUMS), 1))
    window.restart()
    window.add(torch.tensor(1.0), ONE, torch.zeros(len(SUMS), 1))
    clock.now += 1.0
    assert math.isnan(window.close().teaching["buy"].both)


def test_without_a_teacher_nothing_is_said_of_one(clock: SimpleNamespace) -> None:
    window = Throughput(_two_alike())
    window.add(torch.tensor(1.0), ONE, NONE)
    clock.now += 1.0
    assert window.close().teaching == {}
