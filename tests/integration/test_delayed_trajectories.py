"""The hybrid optimizer on one, two and four ranks against a plain simulation of `W_k = W_{k-1} + g_{k-1}`, step for
step."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_rec.common.choices import DenseUpdate
from dist_rec.optim.hybrid import HybridOptimizer
from tests.helpers.ranks import run_ranks
from tests.optim.trajectories import (
    BUCKET_MB,
    DENSE,
    RESUMED,
    RESUMED_AT,
    RUNS,
    STEPS,
    TOLERANCE,
    Net,
    Run,
    flat,
    lr_factor,
    resumed,
    share_host_groups,
    simulate,
    start,
    this_rank,
    trajectory,
)


def plain_ddp_trajectory(run: Run) -> list[Tensor]:
    """Without this package: DDP, torch's clipping, a torch optimizer."""
    torch.manual_seed(this_rank())
    ddp = DistributedDataParallel(Net(run.extra), bucket_cap_mb=BUCKET_MB)
    optimizer = DENSE[run.dense](list(ddp.parameters()))
    assert isinstance(optimizer, torch.optim.Optimizer)
    base, weights = optimizer.param_groups[0]["lr"], []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        ddp(step - 1, this_rank()).backward()
        nn.utils.clip_grad_norm_(ddp.parameters(), run.clip)
        optimizer.param_groups[0]["lr"] = base * lr_factor(step - 1)
        optimizer.step()
        weights.append(flat(ddp))
    return weights


class KeyedByBucket:
    """What not to do: a DDP hook that starts this step's all-reduce and hands back last step's by the number of the
    bucket."""

    def __init__(self) -> None:
        self.now: dict[int, Any] = {}
        self.last: dict[int, Any] = {}

    def hook(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        buffer = bucket.buffer() / dist.get_world_size()
        delayed = torch.zeros_like(buffer)
        self.now[bucket.index()] = (dist.all_reduce(buffer, async_op=True), buffer)
        if bucket.index() in self.last:
            work, old = self.last[bucket.index()]
            work.wait()
            size = min(len(old), len(delayed))
            delayed[:size] = old[:size]
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(delayed)
        return future


def _hook(state: KeyedByBucket, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    return state.hook(bucket)


def keyed_by_bucket(run: Run) -> list[Tensor]:
    """The same run with such a hook; DDP puts its buckets in another order after step 1."""
    torch.manual_seed(0)
    ddp = DistributedDataParallel(Net(run.extra), bucket_cap_mb=BUCKET_MB)
    state, weights = KeyedByBucket(), []
    ddp.register_comm_hook(state, _hook)
    optimizer = DENSE[run.dense](list(ddp.parameters()))
    assert isinstance(optimizer, torch.optim.Optimizer)
    base = optimizer.param_groups[0]["lr"]
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        state.last, state.now = state.now, {}
        ddp(step - 1, this_rank()).backward()
        if step > 1:
            optimizer.param_groups[0]["lr"] = base * lr_factor(step - 2)
            optimizer.step()
        weights.append(flat(ddp))
    return weights


def _on_ranks() -> dict[str, Any]:
    """Everything that needs ranks, in one start of them."""
    share_host_groups()
    found: dict[str, Any] = {
        "trajectories": [trajectory(run) for run in RUNS],
        "plain_ddp": [plain_ddp_trajectory(run) for run in PLAIN],
        "by_bucket": keyed_by_bucket(BY_BUCKET),
        "resumed": [resumed(run, at) for run in RESUMED for at in RESUMED_AT],
        "not_finite": not_finite(),
        "frozen": frozen_and_outside(),
        "compressed": [
            resumed(Run("adamw", update), at, fp32=True, compress="bf16") for at in RESUMED_AT for update in UPDATES
        ],
    }
    return found


def frozen_and_outside() -> tuple[Tensor, Tensor]:
    """Frozen weights and buffers without DDP, and a layer beside one in DDP, on ranks that begin with different
    values."""
    torch.manual_seed(this_rank())
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=True))
    net[0].requires_grad_(False)
    net[1].running_mean += this_rank()
    HybridOptimizer(net, DENSE["sgd"])
    plain = torch.cat([net[0].weight.flatten(), net[1].running_mean])
    beside = nn.Sequential(DistributedDataParallel(nn.Linear(2, 2)), nn.Linear(2, 1))
    optimizer = HybridOptimizer(beside, DENSE["sgd"], dense_update="sync")
    for step in range(3):
        optimizer.zero_grad()
        beside(torch.full((4, 2), float(step + this_rank()))).sum().backward()
        optimizer.step()
    return plain, flat(beside)


UPDATES: tuple[DenseUpdate, ...] = ("sync", "delayed")
BAD_STEP = 4


def not_finite() -> tuple[list[Tensor], int]:
    """In one step one rank has a NaN in one gradient."""
    net, optimizer = start(Run("adamw"))
    weights = []
    for step in range(1, 8):
        optimizer.zero_grad()
        loss = net(step - 1, this_rank())
        (loss * float("nan") if step == BAD_STEP and this_rank() == 1 else loss).backward()
        optimizer.step()
        weights.append(flat(net))
    return weights, optimizer.skipped


PLAIN = [Run(dense, "sync", wrap="ddp") for dense in ("sgd", "adagrad", "adamw")]
BY_BUCKET = Run("sgd", clip=None)


@pytest.fixture(scope="module", params=[2, pytest.param(4, marks=pytest.mark.slow)])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    return run_ranks(_on_ranks, request.param, timeout_s=400.0)


def _assert_equal_steps(got: list[Tensor], expected: list[Tensor], run: Run) -> None:
    assert len(got) == len(expected) == STEPS
    for step, (mine, truth) in enumerate(zip(got, expected), start=1):
        torch.testing.assert_close(mine, truth, rtol=0.0, atol=TOLERANCE, msg=lambda m, s=step: f"{run}, step {s}: {m}")


@pytest.mark.parametrize("run", [run for run in RUNS if run.wrap == "none"], ids=str)
def test_one_rank_equals_the_simulation(run: Run) -> None:
    _assert_equal_steps(trajectory(run), simulate(run, 1), run)


def test_ranks_equal_the_simulation(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for run, got in zip(RUNS, rank["trajectories"], strict=True):
            _assert_equal_steps(got, simulate(run, len(ranks)), run)


def test_the_runs_differ_where_they_should() -> None:
    """Or the comparisons above would compare less than they say."""
    last = {run: simulate(run, 1)[-1] for run in RUNS if run.wrap == "none"}
    for run, other in itertools.combinations(last, 2):
        if run.extra == other.extra:
            assert (last[run] - last[other]).abs().max() > 1e-7, (run, other)


def test_sync_equals_plain_ddp(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for run, plain in zip(PLAIN, rank["plain_ddp"], strict=True):
            _assert_equal_steps(rank["trajectories"][RUNS.index(run)], plain, run)
            without = rank["trajectories"][RUNS.index(replace(run, wrap="none"))]
            _assert_equal_steps(without, plain, run)


def test_a_hook_keyed_by_bucket_mixes_gradients_up(ranks: list[dict[str, Any]]) -> None:
    """So that the equality under DDP, whose buckets change after step 1, shows what it is meant to show."""
    for rank in ranks:
        truth = simulate(BY_BUCKET, len(ranks))
        torch.testing.assert_close(rank["by_bucket"][0], truth[0], rtol=0.0, atol=TOLERANCE)
        assert (rank["by_bucket"][-1] - truth[-1]).abs().max() > 1e-3
        assert (rank["trajectories"][RUNS.index(BY_BUCKET)][-1] - truth[-1]).abs().max() < TOLERANCE


@pytest.mark.parametrize("at", RESUMED_AT)
@pytest.mark.parametrize("run", RESUMED, ids=str)
def test_resumes_bitwise_with_a_gradient_in_flight(run: Run, at: int) -> None:
    straight, again = resumed(run, at)
    assert torch.equal(straight, again)


def test_ranks_resume_bitwise(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        assert all(torch.equal(straight, again) for straight, again in [*rank["resumed"], *rank["compressed"]])
    every = zip(*(rank["resumed"] for rank in ranks), strict=True)
    assert all(torch.equal(mine[0], theirs[0]) for mine, *others in every for theirs in others)


def test_a_gradient_that_is_not_finite_is_skipped_on_all_ranks(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        weights, skipped = rank["not_finite"]
        assert skipped == 1 and torch.equal(weights[-1], ranks[0]["not_finite"][0][-1])
        assert torch.equal(weights[BAD_STEP], weights[BAD_STEP - 1]), (
            "the update of step 5 would have been the bad gradient"
        )
        assert not torch.equal(weights[BAD_STEP + 1], weights[BAD_STEP])
        truth = simulate(Run("adamw"), len(ranks))
        torch.testing.assert_close(weights[BAD_STEP - 1], truth[BAD_STEP - 1], rtol=0.0, atol=TOLERANCE)


def test_ranks_agree_on_frozen_weights_buffers_and_what_stands_beside_ddp(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for mine, theirs in zip(rank["frozen"], ranks[0]["frozen"], strict=True):
            assert torch.equal(mine, theirs)
