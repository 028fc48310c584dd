"""The hybrid optimizer against a plain simulation of `W_k = W_{k-1} + g_{k-1}`, step for step, in float64."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from dist_rec.optim.hybrid import DenseUpdate, HybridOptimizer
from tests.helpers.ranks import run_ranks

STEPS = 12
TOLERANCE = 1e-12  # of float64 weights of about one
DENSE: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "plain_sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
}


@dataclass(frozen=True)
class Run:
    """One way to drive the optimizer; `extra` adds a parameter that has a gradient on some ranks in some steps only."""

    dense: str
    update: DenseUpdate = "delayed"
    warmup: int = 0
    clip: float | None = None
    extra: bool = False


RUNS = [
    Run(dense, update, warmup, clip, extra)
    for dense, (update, warmup), clip, extra in itertools.product(
        ("sgd", "adamw"), (("sync", 0), ("delayed", 0), ("delayed", 3)), (None, 0.5), (False, True)
    )
]


class Net(nn.Module):
    def __init__(self, extra: bool) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(5, 4), nn.GELU(), nn.Linear(4, 1)).double()
        self.extra = nn.Parameter(torch.ones(5, dtype=torch.float64)) if extra else None

    def loss(self, step: int, rank: int) -> Tensor:
        """On the data of one rank in one step."""
        generator = torch.Generator().manual_seed(1000 * step + rank)
        x = torch.randn(8, 5, generator=generator, dtype=torch.float64)
        if self.extra is not None and (step + rank) % 4 == 0:
            x = x * self.extra
        return (self.mlp(x)[:, 0] - x.sum(1)).square().mean()

    def forward(self, step: int, rank: int) -> Tensor:
        return self.loss(step, rank)

    def flat(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.parameters()])


def _lr_factor(applied: int) -> float:
    return 1.0 / (1 + applied)


def simulate(run: Run, world_size: int) -> list[Tensor]:
    """The weights after every step: all ranks' data on one model, and nothing but autograd and a torch optimizer."""
    torch.manual_seed(0)
    net = Net(run.extra)
    parameters = list(net.parameters())
    dense = DENSE[run.dense](parameters)
    base_lr, waiting, applied, weights = dense.param_groups[0]["lr"], None, 0, []

    def apply(gradients: list[Tensor | None]) -> None:
        nonlocal applied
        norm = torch.stack([g.square().sum() for g in gradients if g is not None]).sum().sqrt()
        shrink = 1.0 if run.clip is None else min(1.0, run.clip / (float(norm) + 1e-6))
        for p, g in zip(parameters, gradients):
            p.grad = None if g is None else g * shrink
        dense.param_groups[0]["lr"] = base_lr * _lr_factor(applied)
        dense.step()
        applied += 1

    for step in range(1, STEPS + 1):
        losses = [net.loss(step, rank) for rank in range(world_size)]
        gradients = list(torch.autograd.grad(sum(losses) / world_size, parameters, allow_unused=True))
        if run.update == "sync" or step <= run.warmup:
            apply(gradients)
        else:
            if waiting is not None:
                apply(waiting)
            waiting = gradients
        weights.append(net.flat())
    return weights


def _start(run: Run, seed: int = 0) -> tuple[Net, HybridOptimizer]:
    torch.manual_seed(seed)
    net = Net(run.extra)
    return net, _optimizer(net, run)


def _optimizer(net: nn.Module, run: Run) -> HybridOptimizer:
    return HybridOptimizer(
        net,
        DENSE[run.dense],
        dense_update=run.update,
        warmup_sync_steps=run.warmup,
        clip_norm=run.clip,
        lr_factor=_lr_factor,
        group=dist.group.WORLD if dist.is_initialized() else None,
    )


def _step(module: nn.Module, optimizer: HybridOptimizer, step: int) -> None:
    optimizer.zero_grad()
    module(step, dist.get_rank() if dist.is_initialized() else 0).backward()
    optimizer.step()


def trajectory(run: Run) -> list[Tensor]:
    """The weights after every step on this rank; ranks begin with different ones."""
    net, optimizer = _start(run, seed=dist.get_rank() if dist.is_initialized() else 0)
    weights = []
    for step in range(1, STEPS + 1):
        _step(net, optimizer, step)
        weights.append(net.flat())
    return weights


def ddp_trajectory(run: Run) -> list[Tensor]:
    torch.manual_seed(dist.get_rank())
    net = Net(run.extra)
    ddp = DistributedDataParallel(net)
    optimizer = _optimizer(ddp, run)
    weights = []
    for step in range(1, STEPS + 1):
        _step(ddp, optimizer, step)
        weights.append(net.flat())
    return weights


def resumed(run: Run, at: int) -> tuple[Tensor, Tensor]:
    """The last weights without a stop, and those of a new process's objects that went on from step `at`."""
    net, optimizer = _start(run)
    for step in range(1, at + 1):
        _step(net, optimizer, step)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    for step in range(at + 1, STEPS + 1):
        _step(net, optimizer, step)
    other, other_optimizer = _start(run, seed=7)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    for step in range(at + 1, STEPS + 1):
        _step(other, other_optimizer, step)
    optimizer.flush()
    other_optimizer.flush()
    assert (optimizer.steps, optimizer.applied) == (other_optimizer.steps, other_optimizer.applied)
    return net.flat(), other.flat()


def _refusal() -> str:
    with pytest.raises(ValueError) as caught:
        _optimizer(DistributedDataParallel(Net(False)), Run("sgd"))
    return str(caught.value)


RESUMED = [Run(dense, extra=True, clip=0.5) for dense in DENSE] + [Run("adamw", "sync"), Run("adamw", warmup=5)]


RESUMED_AT = (1, 3, 7)  # after 3 steps `extra` has had no gradient yet


def _on_two_ranks() -> dict[str, Any]:
    """Everything that needs two ranks, in one start of them."""
    return {
        "trajectories": [trajectory(run) for run in RUNS],
        "ddp": [ddp_trajectory(run) for run in RUNS if run.update == "sync" and not run.extra],
        "resumed": [resumed(run, at) for run in RESUMED for at in RESUMED_AT],
        "refusal": _refusal(),
    }


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Any]]:
    return run_ranks(_on_two_ranks, 2)


def _assert_equal_steps(got: list[Tensor], expected: list[Tensor], run: Run) -> None:
    assert len(got) == len(expected) == STEPS
    for step, (mine, truth) in enumerate(zip(got, expected), start=1):
        torch.testing.assert_close(mine, truth, rtol=0.0, atol=TOLERANCE, msg=lambda m, s=step: f"{run}, step {s}: {m}")


@pytest.mark.parametrize("run", RUNS, ids=str)
def test_one_rank_equals_the_simulation(run: Run) -> None:
    _assert_equal_steps(trajectory(run), simulate(run, 1), run)


def test_two_ranks_equal_the_simulation(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        for run, got in zip(RUNS, rank["trajectories"], strict=True):
            _assert_equal_steps(got, simulate(run, 2), run)


def test_the_runs_differ_where_they_should() -> None:
    """Or the comparisons above would compare less than they say."""
    last = {run: simulate(run, 1)[-1] for run in RUNS}
    for run, other in itertools.combinations(RUNS, 2):
        if run.extra == other.extra:
            assert (last[run] - last[other]).abs().max() > 1e-4, (run, other)


def test_sync_without_ddp_equals_ddp(two_ranks: list[dict[str, Any]]) -> None:
    runs = [run for run in RUNS if run.update == "sync" and not run.extra]
    for rank in two_ranks:
        for run, got in zip(runs, rank["ddp"], strict=True):
            _assert_equal_steps(got, rank["trajectories"][RUNS.index(run)], run)


@pytest.mark.parametrize("at", RESUMED_AT)
@pytest.mark.parametrize("run", RESUMED, ids=str)
def test_resumes_bitwise_with_a_gradient_in_flight(run: Run, at: int) -> None:
    straight, again = resumed(run, at)
    assert torch.equal(straight, again)


def test_two_ranks_resume_bitwise(two_ranks: list[dict[str, Any]]) -> None:
    for rank in two_ranks:
        assert all(torch.equal(straight, again) for straight, again in rank["resumed"])
    assert all(torch.equal(mine, theirs) for (mine, _), (theirs, _) in zip(*(rank["resumed"] for rank in two_ranks)))


def test_delayed_under_ddp_is_refused(two_ranks: list[dict[str, Any]]) -> None:
    assert "expected init_data_parallel=False" in two_ranks[0]["refusal"]


def test_an_unknown_update_is_refused() -> None:
    with pytest.raises(ValueError, match="dense_update must be sync or delayed, got 'late'"):
        HybridOptimizer(Net(False), DENSE["sgd"], dense_update="late")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dense", DENSE)
def test_the_first_step_applies_nothing_and_flush_applies_the_rest(dense: str) -> None:
    net, optimizer = _start(Run(dense))
    before = net.flat()
    _step(net, optimizer, 1)
    assert torch.equal(net.flat(), before) and (optimizer.steps, optimizer.applied) == (1, 0)
    _step(net, optimizer, 2)
    after_two = net.flat()
    assert not torch.equal(after_two, before) and (optimizer.steps, optimizer.applied) == (2, 1)
    optimizer.flush()
    flushed = net.flat()
    assert not torch.equal(flushed, after_two) and (optimizer.steps, optimizer.applied) == (2, 2)
    optimizer.flush()
    assert torch.equal(net.flat(), flushed) and optimizer.applied == 2


@pytest.mark.parametrize("dense", DENSE)
def test_saving_changes_nothing(dense: str) -> None:
    """Not the weights, not the step that follows, not the learning rate."""
    run = Run(dense, clip=0.5, extra=True)
    net, optimizer = _start(run)
    for step in range(1, STEPS + 1):
        optimizer.state_dict()
        _step(net, optimizer, step)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.state_dict()
        assert optimizer.param_groups[0]["lr"] == rate
    assert torch.equal(net.flat(), trajectory(run)[-1])


@pytest.mark.parametrize("dense", DENSE)
def test_a_state_has_the_same_keys_at_any_time(dense: str) -> None:
    """DCP needs to know them before it loads."""
    keys = []
    for steps in (0, 1, 2, 6):
        net, optimizer = _start(Run(dense, extra=True))
        for step in range(1, steps + 1):
            _step(net, optimizer, step)
        keys.append(_keys(optimizer.state_dict()))
    assert all(k == keys[0] for k in keys)
    assert {f"dense.{name}.momentum_buffer" for name, _ in net.named_parameters()} <= keys[0] or dense != "sgd"


def _keys(tree: Any, above: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {above}
    return {key for name, value in tree.items() for key in _keys(value, f"{above}.{name}" if above else name)}


def test_learning_rate_and_norm_can_be_read() -> None:
    net, optimizer = _start(Run("adamw", "sync", clip=0.5))
    assert isinstance(optimizer, torch.optim.Optimizer)
    for step in range(1, 4):
        _step(net, optimizer, step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * _lr_factor(step - 1))
        assert optimizer.grad_norm is not None and optimizer.grad_norm > 0.5


def test_parameters_that_others_update_are_left_alone() -> None:
    """Fused tables apply their own optimizer in the backward; frozen parameters have none."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    apply_optimizer_in_backward(torch.optim.SGD, net[0].parameters(), {"lr": 0.1})
    net[1].requires_grad_(False)
    optimizer = HybridOptimizer(net, DENSE["sgd"])
    assert set(optimizer.state_dict()["dense"]) == {"2.weight", "2.bias"}


def test_zero_grad_clears_or_zeroes() -> None:
    net, optimizer = _start(Run("sgd"))
    net(1, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())
