"""The dense optimizer on a GPU: weights against float64, a gradient that is dropped there, and nothing that waits."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector

from dist_rec.common.choices import DenseUpdate
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.muon import BatchedMuon
from dist_rec.training.ranks import Ranks
from tests.helpers.closeness import assert_close_to_truth, farthest
from tests.helpers.devices import DEVICES, no_waiting, one_rank

STEPS, WARMUP = 10, 3
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer | list[torch.optim.Optimizer]]


def _muon(parameters: list[nn.Parameter]) -> list[torch.optim.Optimizer]:
    """In the precision of the weights: bf16 iterations differ between devices by as much as bf16 does."""
    matrices, others = [p for p in parameters if p.ndim == 2], [p for p in parameters if p.ndim != 2]
    return [BatchedMuon(matrices, lr=0.02, dtype=matrices[0].dtype), torch.optim.AdamW(others, lr=0.01)]


OPTIMIZERS: dict[str, Make] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "muon": _muon,
}
UPDATES: dict[str, dict[str, Any]] = {
    "sync": {"dense_update": "sync"},
    "delayed": {"dense_update": "delayed"},
    "delayed, extrapolated": {"dense_update": "delayed", "correction": "extrapolate"},
    "accumulated": {"dense_update": "delayed", "accumulation_steps": 2},
}


class Training:
    """A small network and its optimizer; the data are the same on every device and in every precision."""

    def __init__(self, ranks: Ranks, dtype: torch.dtype, make: Make, **options: Any) -> None:
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(10, 12), nn.GELU(), nn.Linear(12, 1)).double()
        self.data = torch.randn(STEPS, 16, 10, dtype=torch.float64).to(ranks.device, dtype)
        self.net = net.to(ranks.device, dtype)
        usual = {"warmup_sync_steps": WARMUP, "clip_norm": 0.5, "group": ranks.dense_group, "health_every": 4}
        self.optimizer = HybridOptimizer(self.net, make, **usual | options)

    def step(self, number: int, factor: float = 1.0) -> None:
        self.optimizer.zero_grad()
        x = self.data[number]
        ((self.net(x)[:, 0] - x.sum(dim=1)).square().mean() * factor).backward()
        self.optimizer.step()

    def weights(self) -> Tensor:
        return parameters_to_vector(self.net.parameters()).detach().cpu()


def _trained(ranks: Ranks, dtype: torch.dtype, make: Make, **options: Any) -> Tensor:
    training = Training(ranks, dtype, make, **options)
    for number in range(STEPS):
        training.step(number)
    training.optimizer.flush()
    return training.weights()


@pytest.mark.parametrize("update", UPDATES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("device", DEVICES)
def test_weights_are_as_near_to_the_truth_as_on_the_cpu(device: str, optimizer: str, update: str) -> None:
    make, options = OPTIMIZERS[optimizer], UPDATES[update]
    with one_rank("cpu") as ranks:
        truth = _trained(ranks, torch.float64, make, **options)
        plain = _trained(ranks, torch.float32, make, **options)
    with one_rank(device) as ranks:
        found = _trained(ranks, torch.float32, make, **options)
    # Where a step may be dropped on the device, torch's AdamW divides in another order (`capturable`).
    assert_close_to_truth(found, truth, plain, factor=16.0)


@pytest.mark.parametrize("device", DEVICES)
def test_gradients_that_travel_in_bf16(device: str) -> None:
    """As far from the truth as on the CPU, and not without the rounding."""
    make, options = OPTIMIZERS["sgd"], {"dense_update": "delayed", "compress": "bf16"}
    with one_rank("cpu") as ranks:
        truth = _trained(ranks, torch.float64, make, dense_update="delayed")
        full = _trained(ranks, torch.float32, make, dense_update="delayed")
        plain = _trained(ranks, torch.float32, make, **options)
    with one_rank(device) as ranks:
        found = _trained(ranks, torch.float32, make, **options)
    assert_close_to_truth(found, truth, farthest([plain, full], truth), factor=2.0)
    assert (found - truth).abs().max() > 20 * (full - truth).abs().max()


@pytest.mark.parametrize("update", ["sync", "delayed"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("device", DEVICES)
def test_a_gradient_of_nan_is_dropped_without_waiting(device: str, optimizer: str, update: DenseUpdate) -> None:
    """The weights of a training that never met it, in its warm-up and after it."""
    with one_rank(device) as ranks:
        met, never = (
            Training(ranks, torch.float32, OPTIMIZERS[optimizer], dense_update=update, health_every=0) for _ in range(2)
        )
        bad = (1, 6)
        for number in range(4):
            met.step(number, float("nan") if number in bad else 1.0)
        with no_waiting(device):  # kernels, states and buffers are there
            for number in range(4, STEPS):
                met.step(number, float("nan") if number in bad else 1.0)
        met.optimizer.flush()
        for number in range(STEPS):
            if number not in bad:
                never.step(number)
        never.optimizer.flush()
        assert met.optimizer.skipped == len(bad) and never.optimizer.skipped == 0
        assert met.optimizer.applied == never.optimizer.applied == STEPS - len(bad)
        if update == "sync":  # delayed gradients are those of weights that the dropped step shifts by one
            assert torch.equal(met.weights(), never.weights())
        assert met.weights().isfinite().all()
