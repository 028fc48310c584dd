from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training import stage_clock
from dist_rec.training.stage_clock import STAGES, StageClock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=50.0)
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: clock.now)
    return clock


class Slow(nn.Module):
    """Its forward takes two seconds, its backward four, and an update eight."""

    def __init__(self, clock: SimpleNamespace) -> None:
        super().__init__()
        self.weight, self.clock = nn.Parameter(torch.ones(1)), clock
        self.weight.register_hook(lambda _: self.takes(4.0))

    def takes(self, seconds: float) -> None:
        self.clock.now += seconds

    def forward(self) -> torch.Tensor:
        self.takes(2.0)
        return self.weight.sum()


def test_every_second_is_in_one_stage(clock: SimpleNamespace) -> None:
    model = Slow(clock)

    class SlowSGD(torch.optim.SGD):
        def step(self, closure: object = None) -> None:
            model.takes(8.0)

    optimizer = HybridOptimizer(model, lambda p: SlowSGD(p, lr=0.1), dense_update="sync")
    stages = StageClock(model, optimizer)
    for _ in range(3):
        clock.now += 1.0
        optimizer.zero_grad()
        model().backward()
        optimizer.step()
    clock.now += 0.5
    assert dict(zip(STAGES, stages.read(), strict=True)) == {
        "forward": 6.0,
        "backward": 12.0,
        "update": 24.0,
        "other": 3.5,
    }
    assert sum(stages.read()) == 45.5, "reading changes nothing"
    stages.restart()
    model.eval()
    model()
    assert stages.read() == [0.0, 0.0, 0.0, 2.0], "an evaluation is no stage"
