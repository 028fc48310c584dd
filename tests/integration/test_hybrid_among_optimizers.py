"""HybridOptimizer inside the optimizers that TorchRec jobs put around theirs: the same weights as with TorchRec's
own."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, nn
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.warmup import WarmupOptimizer, WarmupPolicy, WarmupStage

from dist_rec.optim.hybrid import HybridOptimizer
from tests.optim.trajectories import DENSE, Net, flat

AROUND: dict[str, Callable[[Any], Any]] = {
    "alone": lambda optimizer: optimizer,
    "CombinedOptimizer": lambda optimizer: CombinedOptimizer([("all", optimizer)]),
    "GradientClippingOptimizer, norm": lambda o: GradientClippingOptimizer(o, GradientClipping.NORM, max_gradient=0.5),
    "GradientClippingOptimizer, value": lambda o: GradientClippingOptimizer(
        o, GradientClipping.VALUE, max_gradient=0.01
    ),
    "WarmupOptimizer": lambda o: WarmupOptimizer(
        o, [WarmupStage(WarmupPolicy.LINEAR, max_iters=4, value=0.1)], lr=0.02
    ),
    "all of them": lambda o: WarmupOptimizer(
        GradientClippingOptimizer(CombinedOptimizer([("x", o)]), GradientClipping.NORM, max_gradient=0.5),
        [WarmupStage(WarmupPolicy.STEP, max_iters=4, value=0.5, decay_iters=2)],
        lr=0.02,
    ),
}
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "StepLR": lambda o: torch.optim.lr_scheduler.StepLR(o, 2, 0.5),
    "LambdaLR": lambda o: torch.optim.lr_scheduler.LambdaLR(o, lambda step: 1.0 / (step + 1)),
    "CosineAnnealingLR": lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 8),
    "SequentialLR": lambda o: torch.optim.lr_scheduler.SequentialLR(
        o, [torch.optim.lr_scheduler.ConstantLR(o, 0.1, 3), torch.optim.lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
}


def _stock(net: nn.Module) -> Any:
    return KeyedOptimizerWrapper(dict(net.named_parameters()), DENSE["adamw"])  # pyright: ignore[reportArgumentType]


def _sync(net: nn.Module) -> Any:
    return HybridOptimizer(net, DENSE["adamw"], dense_update="sync", skip_nonfinite=False)


def _trained(make: Callable[[nn.Module], Any], around: Callable[[Any], Any], schedule: Any = None) -> list[Tensor]:
    torch.manual_seed(0)
    net = Net(False)
    optimizer = around(make(net))
    scheduler = None if schedule is None else schedule(optimizer)
    weights = []
    for step in range(8):
        optimizer.zero_grad()
        net(step, 0).backward()
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        weights.append(flat(net))
    return weights


@pytest.mark.parametrize("name", AROUND)
def test_inside_the_optimizers_of_torchrec_every_bit_is_theirs(name: str) -> None:
    for mine, theirs in zip(_trained(_sync, AROUND[name]), _trained(_stock, AROUND[name]), strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.filterwarnings("ignore::UserWarning:torch")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_under_torchs_schedulers_every_bit_is_that_of_torchrecs(name: str) -> None:
    mine, theirs = (_trained(make, AROUND["alone"], SCHEDULERS[name]) for make in (_sync, _stock))
    assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


# A WarmupOptimizer around a CombinedOptimizer saves no place, whatever is inside.
@pytest.mark.parametrize("name", [name for name in AROUND if name != "all of them"])
@pytest.mark.parametrize("at", [0, 2, 5])
def test_delayed_updates_resume_through_them_and_dcp(name: str, at: int, tmp_path: Path) -> None:
    """With two synchronous steps; what is around the optimizer keeps its own state or none, as with TorchRec's."""

    def delayed(net: nn.Module) -> HybridOptimizer:
        return HybridOptimizer(net, DENSE["adamw"], warmup_sync_steps=2)

    def go(net: nn.Module, optimizer: Any, steps: range) -> Tensor:
        for step in steps:
            optimizer.zero_grad()
            net(step, 0).backward()
            optimizer.step()
        return flat(net)

    torch.manual_seed(0)
    net = Net(False)
    optimizer = AROUND[name](delayed(net))
    go(net, optimizer, range(at))
    dcp.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, checkpoint_id=tmp_path, no_dist=True)
    straight = go(net, optimizer, range(at, 8))
    other = Net(False)
    resumed = AROUND[name](delayed(other))
    state = {"net": other.state_dict(), "optimizer": copy.deepcopy(resumed.state_dict())}
    dcp.load(state, checkpoint_id=tmp_path, no_dist=True)
    other.load_state_dict(state["net"])
    resumed.load_state_dict(state["optimizer"])
    assert torch.equal(go(other, resumed, range(at, 8)), straight)
