"""The hybrid optimizer against a plain simulation of `W_k = W_{k-1} + g_{k-1}`, step for step, in float64."""

import copy
import itertools
from dataclasses import dataclass, replace
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import KeyedOptimizer

from dist_rec.optim.dense import DenseFactory
from dist_rec.optim.hybrid import DenseUpdate, HybridOptimizer
from dist_rec.optim.staleness import Staleness
from tests.helpers.ranks import run_ranks

STEPS = 20
TOLERANCE = 1e-12  # of float64 weights of about one
DENSE: dict[str, DenseFactory] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.01),
    "plain_sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=0.05),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.02, weight_decay=0.1),
    "two": lambda p: [
        torch.optim.SGD([x for x in p if x.ndim == 2], lr=0.1),
        torch.optim.AdamW([x for x in p if x.ndim != 2], lr=0.01),
    ],
}


@dataclass(frozen=True)
class Run:
    """One way to drive the optimizer; `extra` adds a parameter that has a gradient on some ranks in some steps only. `wrap`:
    DDP as TorchRec builds it, or none; its buckets are so small that there are several, and it rebuilds them after step 1.
    `switch`: to the other kind of update and back in the middle."""

    dense: str
    update: DenseUpdate = "delayed"
    warmup: int = 0
    clip: float | None = 0.5
    accumulation: int = 1
    extra: bool = False
    staleness: Staleness = "none"
    wrap: Literal["none", "ddp", "ddp_unused"] = "none"
    switch: bool = False


RUNS = [
    *(
        Run(dense, update, warmup, clip, accumulation, extra)
        for dense, (update, warmup), clip, accumulation, extra in itertools.product(
            ("sgd", "adagrad", "adamw"), (("sync", 0), ("delayed", 0), ("delayed", 3)), (None, 0.5), (1, 3), (False, True)
        )
    ),
    *(
        Run(dense, staleness=kind, warmup=3)
        for dense in ("sgd", "adamw")
        for kind in ("extrapolate", "compensate", "error_feedback")
    ),
    Run("two", extra=True),
    *(Run(dense, "delayed", 3, accumulation=n, wrap="ddp") for dense in ("sgd", "adagrad", "adamw") for n in (1, 3)),
    *(Run(dense, "sync", accumulation=n, wrap="ddp") for dense in ("sgd", "adagrad", "adamw") for n in (1, 3)),
    *(Run("sgd", update, accumulation=n, extra=True, wrap="ddp_unused") for update in ("sync", "delayed") for n in (1, 2)),
    *(Run("adamw", update, switch=True) for update in ("sync", "delayed")),
    *(Run("adamw", update, switch=True, wrap="ddp") for update in ("sync", "delayed")),
]


class Net(nn.Module):
    """Nine tensors of 400 weights: with `BUCKET_MB` at least five buckets."""

    def __init__(self, extra: bool) -> None:
        super().__init__()
        layers = [layer for _ in range(3) for layer in (nn.Linear(10, 10), nn.GELU())]
        self.mlp = nn.Sequential(*layers, nn.Linear(10, 1)).double()
        self.extra = nn.Parameter(torch.ones(10, dtype=torch.float64)) if extra else None

    def forward(self, batch: int, rank: int) -> Tensor:
        """The loss on the data of one rank in one batch."""
        generator = torch.Generator().manual_seed(1000 * batch + rank)
        x = torch.randn(8, 10, generator=generator, dtype=torch.float64).to(self.mlp[0].weight.dtype)
        if self.extra is not None and (batch + rank) % 4 == 0:
            x = x * self.extra
        return (self.mlp(x)[:, 0] - x.sum(1)).square().mean()


BUCKET_MB = 0.00085


SWITCHED = range(7, 14)  # the steps of the other kind


def _update_of(run: Run, step: int) -> DenseUpdate:
    if not run.switch or step not in SWITCHED:
        return run.update
    return "sync" if run.update == "delayed" else "delayed"


def _lr_factor(applied: int) -> float:
    return 1.0 / (1 + 0.1 * applied)


def simulate(run: Run, world_size: int) -> list[Tensor]:
    """The weights after every step: all ranks' data on one model, and nothing but autograd and a torch optimizer."""
    torch.manual_seed(0)
    net = Net(run.extra)
    parameters = list(net.parameters())
    made = DENSE[run.dense](parameters)
    optimizers = [made] if isinstance(made, torch.optim.Optimizer) else made
    base = [[g["lr"] for g in o.param_groups] for o in optimizers]
    waiting, last, last_move, applied, weights = None, None, None, 0, []

    def apply(gradients: list[Any], at: list[Tensor], late: bool) -> None:
        nonlocal applied, last, last_move
        used, before = gradients, [p.detach().clone() for p in parameters]
        if late and run.staleness == "extrapolate":
            used = [2 * g - old for g, old in zip(gradients, last)]
        if late and run.staleness == "compensate":
            used = [g + 0.04 * g * g * (p.detach() - w) for g, p, w in zip(gradients, parameters, at)]
        norm = torch.stack([g.square().sum() for g in used if g is not None]).sum().sqrt()
        shrink = 1.0 if run.clip is None else min(1.0, run.clip / (float(norm) + 1e-6))
        for p, g in zip(parameters, used):
            p.grad = None if g is None else g * shrink
        for optimizer, rates in zip(optimizers, base):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * _lr_factor(applied)
            optimizer.step()
        move = [p.detach() - b for p, b in zip(parameters, before)]
        if late and run.staleness == "error_feedback":
            for p, now, old in zip(parameters, move, last_move):
                p.data += now - old
        last, last_move, applied = gradients, move, applied + 1

    for step in range(1, STEPS + 1):
        if waiting is not None and _update_of(run, step) == "sync":
            apply(*waiting, late=True)
            waiting = None
        batches = range((step - 1) * run.accumulation, step * run.accumulation)
        losses = [net(batch, rank) for batch in batches for rank in range(world_size)]
        gradients = list(torch.autograd.grad(sum(losses) / len(losses), parameters, allow_unused=True))
        at = [p.detach().clone() for p in parameters]
        if _update_of(run, step) == "sync" or step <= run.warmup:
            apply(gradients, at, late=False)
        else:
            if waiting is not None:
                apply(*waiting, late=True)
            waiting = gradients, at
        weights.append(_flat(net))
    return weights


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def _start(run: Run, seed: int = 0, *, fp32: bool = False, **options: Any) -> tuple[nn.Module, HybridOptimizer]:
    torch.manual_seed(seed)
    net = Net(run.extra)
    net = net.float() if fp32 else net
    if run.wrap == "ddp":
        net = DistributedDataParallel(net, bucket_cap_mb=BUCKET_MB, gradient_as_bucket_view=True, static_graph=True)
    if run.wrap == "ddp_unused":
        net = DistributedDataParallel(net, bucket_cap_mb=BUCKET_MB, find_unused_parameters=True)
    return net, _optimizer(net, run, **options)


def _optimizer(net: nn.Module, run: Run, **options: Any) -> HybridOptimizer:
    usual: dict[str, Any] = {
        "clip_norm": run.clip,
        "lr_factor": _lr_factor,
        "bucket_cap_mb": BUCKET_MB,
        "staleness": run.staleness,
    }
    usual |= {"dense_update": run.update, "warmup_sync_steps": run.warmup, "accumulation_steps": run.accumulation}
    return HybridOptimizer(net, DENSE[run.dense], **usual | options)


def _flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def _step(module: nn.Module, optimizer: HybridOptimizer, step: int, accumulation: int = 1) -> None:
    """As a stock pipeline does: clear, backward, step for every batch."""
    for batch in range((step - 1) * accumulation, step * accumulation):
        optimizer.zero_grad()
        module(batch, _rank()).backward()
        optimizer.step()


def trajectory(run: Run) -> list[Tensor]:
    """The weights after every step on this rank; ranks begin with different ones."""
    net, optimizer = _start(run, seed=_rank())
    weights = []
    for step in range(1, STEPS + 1):
        if optimizer.dense_update != _update_of(run, step):
            optimizer.dense_update = _update_of(run, step)
        _step(net, optimizer, step, run.accumulation)
        weights.append(_flat(net))
    reduce = optimizer.all_reduce
    assert reduce is None or reduce.num_buckets >= 5
    return weights


def plain_ddp_trajectory(run: Run) -> list[Tensor]:
    """Without this package: DDP, torch's clipping, a torch optimizer."""
    torch.manual_seed(_rank())
    ddp = DistributedDataParallel(Net(run.extra), bucket_cap_mb=BUCKET_MB)
    optimizer = DENSE[run.dense](list(ddp.parameters()))
    assert isinstance(optimizer, torch.optim.Optimizer)
    base, weights = optimizer.param_groups[0]["lr"], []
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        ddp(step - 1, _rank()).backward()
        nn.utils.clip_grad_norm_(ddp.parameters(), run.clip)
        optimizer.param_groups[0]["lr"] = base * _lr_factor(step - 1)
        optimizer.step()
        weights.append(_flat(ddp))
    return weights


class KeyedByBucket:
    """What not to do: a DDP hook that starts this step's all-reduce and hands back last step's by the number of the bucket."""

    def __init__(self) -> None:
        self.now: dict[int, Any] = {}
        self.last: dict[int, Any] = {}

    def hook(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        buffer = bucket.buffer() / dist.get_world_size()
        late = torch.zeros_like(buffer)
        self.now[bucket.index()] = (dist.all_reduce(buffer, async_op=True), buffer)
        if bucket.index() in self.last:
            work, old = self.last[bucket.index()]
            work.wait()
            size = min(len(old), len(late))
            late[:size] = old[:size]
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(late)
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
        ddp(step - 1, _rank()).backward()
        if step > 1:
            optimizer.param_groups[0]["lr"] = base * _lr_factor(step - 2)
            optimizer.step()
        weights.append(_flat(ddp))
    return weights


def resumed(run: Run, at: int, **options: Any) -> tuple[Tensor, Tensor]:
    """The last weights without a stop, and those of a new process's objects that went on from step `at`."""
    net, optimizer = _start(run, **options)
    for step in range(1, at + 1):
        _step(net, optimizer, step, run.accumulation)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    for step in range(at + 1, STEPS + 1):
        _step(net, optimizer, step, run.accumulation)
    other, other_optimizer = _start(run, seed=7, **options)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    for step in range(at + 1, STEPS + 1):
        _step(other, other_optimizer, step, run.accumulation)
    optimizer.flush()
    other_optimizer.flush()
    assert (optimizer.steps, optimizer.applied) == (other_optimizer.steps, other_optimizer.applied)
    return _flat(net), _flat(other)


RESUMED = [
    *(Run(dense, extra=True) for dense in DENSE),
    Run("adamw", "sync"),
    Run("adamw", warmup=5),
    Run("sgd", accumulation=3),
    *(Run("adamw", staleness=kind) for kind in ("extrapolate", "compensate", "error_feedback")),
]
RESUMED_AT = (1, 3, 7)  # after 3 steps `extra` has had no gradient yet


def _on_ranks() -> dict[str, Any]:
    """Everything that needs ranks, in one start of them."""
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
    """Frozen weights and buffers without DDP, and a layer beside one in DDP, on ranks that begin with different values."""
    torch.manual_seed(_rank())
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=True))
    net[0].requires_grad_(False)
    net[1].running_mean += _rank()
    HybridOptimizer(net, DENSE["sgd"])
    plain = torch.cat([net[0].weight.flatten(), net[1].running_mean])
    beside = nn.Sequential(DistributedDataParallel(nn.Linear(2, 2)), nn.Linear(2, 1))
    optimizer = HybridOptimizer(beside, DENSE["sgd"], dense_update="sync")
    for step in range(3):
        optimizer.zero_grad()
        beside(torch.full((4, 2), float(step + _rank()))).sum().backward()
        optimizer.step()
    return plain, _flat(beside)


UPDATES: tuple[DenseUpdate, ...] = ("sync", "delayed")
BAD_STEP = 4


def not_finite() -> tuple[list[Tensor], int]:
    """In one step one rank has a NaN in one gradient."""
    net, optimizer = _start(Run("adamw"))
    weights = []
    for step in range(1, 8):
        optimizer.zero_grad()
        loss = net(step - 1, _rank())
        (loss * float("nan") if step == BAD_STEP and _rank() == 1 else loss).backward()
        optimizer.step()
        weights.append(_flat(net))
    return weights, optimizer.skipped


PLAIN = [Run(dense, "sync", wrap="ddp") for dense in ("sgd", "adagrad", "adamw")]
BY_BUCKET = Run("sgd", clip=None)


@pytest.fixture(scope="module", params=[2, 4])
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
        assert torch.equal(weights[BAD_STEP], weights[BAD_STEP - 1]), "the update of step 5 would have been the bad gradient"
        assert not torch.equal(weights[BAD_STEP + 1], weights[BAD_STEP])
        truth = simulate(Run("adamw"), len(ranks))
        torch.testing.assert_close(weights[BAD_STEP - 1], truth[BAD_STEP - 1], rtol=0.0, atol=TOLERANCE)


def test_ranks_agree_on_frozen_weights_buffers_and_what_stands_beside_ddp(ranks: list[dict[str, Any]]) -> None:
    for rank in ranks:
        for mine, theirs in zip(rank["frozen"], ranks[0]["frozen"], strict=True):
            assert torch.equal(mine, theirs)


def _scaled(scaler: torch.amp.GradScaler | None) -> tuple[list[Tensor], HybridOptimizer]:
    """Seven steps; the loss of the third overflows when scaled."""
    net, optimizer = _start(Run("adamw"), grad_scaler=scaler)
    weights = []
    for step in range(1, 8):
        optimizer.zero_grad()
        loss = net(step - 1, 0)
        loss = loss if scaler is None else scaler.scale(loss)
        (loss * float("inf") if step == 3 else loss).backward()
        optimizer.step()
        weights.append(_flat(net))
    return weights, optimizer


def test_a_scaled_loss_changes_nothing_and_the_scale_follows_what_was_applied() -> None:
    """A scale is a power of two, so the bits are the same; the bad gradient of step 3 is looked at in step 4."""
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    plain, _ = _scaled(None)
    scaled, optimizer = _scaled(scaler)
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(scaled, plain, strict=True))
    assert optimizer.skipped == 1 and scaler.get_scale() == 2.0**10, "halved after step 3's, doubled after three good ones"
    assert float(optimizer.state_dict()["scales"][1]) == 2.0**9, "the gradient in flight keeps its own"


def test_scaled_losses_and_fused_tables_do_not_go_together() -> None:
    net = Net(False)
    net.fused_optimizer = KeyedOptimizer({"table": torch.ones(1)}, {}, [])  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="fused sparse optimizers apply their gradients inside the backward, still scaled"):
        _optimizer(net, Run("sgd"), grad_scaler=torch.amp.GradScaler("cpu"))


def test_recomputed_activations_and_a_compiled_model_change_nothing() -> None:
    run = Run("sgd")
    for wrapped in (
        lambda net, step: torch.utils.checkpoint.checkpoint(net, step, 0, use_reentrant=False),
        lambda net, step: torch.compile(net, backend="aot_eager")(step, 0),
    ):
        net, optimizer = _start(run)
        for step in range(1, 8):
            optimizer.zero_grad()
            wrapped(net, step - 1).backward()
            optimizer.step()
        torch.testing.assert_close(_flat(net), simulate(run, 1)[6], rtol=0.0, atol=TOLERANCE)


def test_parameters_may_join_later() -> None:
    net, optimizer = _start(Run("plain_sgd", clip=None))
    _step(net, optimizer, 1)
    new = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer.add_parameters({"new": new}, lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (net(1, 0) + new.sum()).backward()
        optimizer.step()
    assert new.tolist() == pytest.approx([-0.5 * _lr_factor(1)] * 3), "late as the others, at its own rate"
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5 * _lr_factor(1)) and "new" in optimizer.params


def test_half_way_through_an_accumulation_nothing_is_saved_or_switched() -> None:
    net, optimizer = _start(Run("sgd", accumulation=3))
    net(0, 0).backward()
    optimizer.step()
    for attempt in (optimizer.state_dict, lambda: setattr(optimizer, "dense_update", "sync")):
        with pytest.raises(RuntimeError, match="1 of 3 gradients are added up"):
            attempt()


def test_the_start_is_synchronous_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    net = Net(False)
    optimizer = HybridOptimizer(net, torch.optim.AdamW)
    _step(net, optimizer, 1)
    assert optimizer.applied == 1 and optimizer.dense_update == "delayed"


def test_late_updates_may_have_their_own_rate() -> None:
    run = Run("plain_sgd", warmup=2, clip=None)
    net, optimizer = _start(run, delayed_lr_factor=0.25)
    seen = []
    for step in range(1, 6):
        _step(net, optimizer, step)
        seen.append(optimizer.param_groups[0]["lr"] / 0.1)
    late = [0.25 * _lr_factor(n) for n in (2, 3)]
    assert seen == pytest.approx([_lr_factor(0), _lr_factor(1), _lr_factor(1), *late]), "step 3 applies nothing"


def test_a_schedulers_rate_is_kept_and_comes_back() -> None:
    found = []
    for resume_at in (None, 2):
        torch.manual_seed(0)
        net = Net(False)
        optimizer = HybridOptimizer(net, DENSE["sgd"], warmup_sync_steps=0, delayed_lr_factor=0.5)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for step in range(1, 5):
            _step(net, optimizer, step)
            scheduler.step()
            if step == resume_at:
                saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
                optimizer.close()
                net = Net(False)
                optimizer = HybridOptimizer(net, DENSE["sgd"], warmup_sync_steps=0, delayed_lr_factor=0.5)
                scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
                for part, state in zip((net, optimizer, scheduler), saved, strict=True):
                    part.load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)
        found.append(_flat(net))
    assert torch.equal(found[0], found[1])


def test_flushing_half_way_through_an_accumulation_keeps_what_is_added_up() -> None:
    net, optimizer = _start(Run("plain_sgd", accumulation=2, clip=None))
    _step(net, optimizer, 1, 2)
    net(2, 0).backward()
    optimizer.step()
    half = {name: p.grad.clone() for name, p in net.named_parameters()}
    optimizer.flush()
    assert all(torch.equal(p.grad, half[name]) for name, p in net.named_parameters())
    assert optimizer.applied == 1


@pytest.mark.parametrize("options", [{"dense_update": "sync"}, {"warmup_sync_steps": 1000}])
def test_a_late_gradient_of_a_checkpoint_is_applied_before_the_first_synchronous_one(options: dict[str, Any]) -> None:
    net, optimizer = _start(Run("sgd"))
    _step(net, optimizer, 1)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    other, other_optimizer = _start(Run("sgd"), seed=7, **options)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    _step(other, other_optimizer, 2)
    assert other_optimizer.applied == 2


def test_a_state_of_other_parameters_is_refused() -> None:
    _, optimizer = _start(Run("sgd"))
    _, other = _start(Run("sgd", extra=True))
    with pytest.raises(ValueError, match="the state is of other parameters: extra in one of the two only"):
        optimizer.load_state_dict(other.state_dict())


def test_hooks_run_and_closures_are_refused() -> None:
    net, optimizer = _start(Run("sgd"))
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    _step(net, optimizer, 1)
    assert seen == ["before", "after"]
    with pytest.raises(ValueError, match="step takes no closure"):
        optimizer.step(lambda: 0.0)


def test_torchrecs_init_state_makes_no_step() -> None:
    net, optimizer = _start(Run("adamw", "sync"))
    before = _flat(net)
    optimizer.init_state()
    assert torch.equal(_flat(net), before) and optimizer.steps == 0


def test_health_is_measured_when_asked_for() -> None:
    net, optimizer = _start(Run("sgd"), health_every=2)
    for step in range(1, 5):
        _step(net, optimizer, step)
    assert optimizer.health is not None and optimizer.health.applied == 2
    assert -1.0 <= float(optimizer.health.gradient_cosine) <= 1.0 and float(optimizer.health.update_norm) > 0


def test_an_unknown_update_is_refused() -> None:
    with pytest.raises(ValueError, match="dense_update must be sync or delayed, got 'late'"):
        HybridOptimizer(Net(False), DENSE["sgd"], dense_update="late")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dense", DENSE)
def test_the_first_step_applies_nothing_and_flush_applies_the_rest(dense: str) -> None:
    net, optimizer = _start(Run(dense))
    before = _flat(net)
    _step(net, optimizer, 1)
    assert torch.equal(_flat(net), before) and (optimizer.steps, optimizer.applied) == (1, 0)
    _step(net, optimizer, 2)
    after_two = _flat(net)
    assert not torch.equal(after_two, before) and (optimizer.steps, optimizer.applied) == (2, 1)
    optimizer.flush()
    flushed = _flat(net)
    assert not torch.equal(flushed, after_two) and (optimizer.steps, optimizer.applied) == (2, 2)
    optimizer.flush()
    assert torch.equal(_flat(net), flushed) and optimizer.applied == 2


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
    assert torch.equal(_flat(net), trajectory(run)[-1])


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
    assert {f"dense.state.{name}.momentum_buffer" for name, _ in net.named_parameters()} <= keys[0] or dense != "sgd"


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
    assert set(optimizer.state_dict()["dense"]["state"]) == {"2.weight", "2.bias"}


def test_zero_grad_clears_or_zeroes() -> None:
    net, optimizer = _start(Run("sgd", accumulation=2))
    net(1, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())
