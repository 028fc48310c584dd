"""Ways to drive the hybrid optimizer, and the trajectory that each has to follow, by a plain simulation in float64."""

import copy
import functools
import itertools
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dist_rec.common.choices import CorrectionKind, DenseUpdate
from dist_rec.optim import delayed
from dist_rec.optim.dense import DenseFactory
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.process_groups import host_group_of, own_group

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
    """One way to drive the optimizer; `extra` adds a parameter that has a gradient on some ranks in some steps only.
    `wrap`: DDP as TorchRec builds it, or none; its buckets are so small that there are several, and it rebuilds them
    after step 1. `switch`: to the other kind of update and back in the middle."""

    dense: str
    update: DenseUpdate = "delayed"
    warmup: int = 0
    clip: float | None = 0.5
    accumulation: int = 1
    extra: bool = False
    correction: CorrectionKind = "none"
    wrap: Literal["none", "ddp", "ddp_unused"] = "none"
    switch: bool = False


RUNS = [
    *(
        Run(dense, update, warmup, clip, accumulation, extra)
        for dense, (update, warmup), clip, accumulation, extra in itertools.product(
            ("sgd", "adagrad", "adamw"),
            (("sync", 0), ("delayed", 0), ("delayed", 3)),
            (None, 0.5),
            (1, 3),
            (False, True),
        )
    ),
    *(
        Run(dense, correction=kind, warmup=3)
        for dense in ("sgd", "adamw")
        for kind in ("extrapolate", "error_feedback")
    ),
    Run("two", extra=True),
    *(Run(dense, "delayed", 3, accumulation=n, wrap="ddp") for dense in ("sgd", "adagrad", "adamw") for n in (1, 3)),
    *(Run(dense, "sync", accumulation=n, wrap="ddp") for dense in ("sgd", "adagrad", "adamw") for n in (1, 3)),
    *(
        Run("sgd", update, accumulation=n, extra=True, wrap="ddp_unused")
        for update in ("sync", "delayed")
        for n in (1, 2)
    ),
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


def update_of(run: Run, step: int) -> DenseUpdate:
    if not run.switch or step not in SWITCHED:
        return run.update
    return "sync" if run.update == "delayed" else "delayed"


def lr_factor(applied: int) -> float:
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

    def apply(gradients: list[Any], delayed: bool) -> None:
        nonlocal applied, last, last_move
        used, before = gradients, [p.detach().clone() for p in parameters]
        if delayed and run.correction == "extrapolate":
            used = [2 * g - old for g, old in zip(gradients, last)]
        norm = torch.stack([g.square().sum() for g in used if g is not None]).sum().sqrt()
        shrink = 1.0 if run.clip is None else min(1.0, run.clip / (float(norm) + 1e-6))
        for p, g in zip(parameters, used):
            p.grad = None if g is None else g * shrink
        for optimizer, rates in zip(optimizers, base):
            for group, rate in zip(optimizer.param_groups, rates):
                group["lr"] = rate * lr_factor(applied)
            optimizer.step()
        move = [p.detach() - b for p, b in zip(parameters, before)]
        if delayed and run.correction == "error_feedback":
            for p, now, old in zip(parameters, move, last_move):
                p.data += now - old
        last, last_move, applied = gradients, move, applied + 1

    for step in range(1, STEPS + 1):
        if waiting is not None and update_of(run, step) == "sync":
            apply(waiting, delayed=True)
            waiting = None
        batches = range((step - 1) * run.accumulation, step * run.accumulation)
        losses = [net(batch, rank) for batch in batches for rank in range(world_size)]
        gradients = list(torch.autograd.grad(sum(losses) / len(losses), parameters, allow_unused=True))
        if update_of(run, step) == "sync" or step <= run.warmup:
            apply(gradients, delayed=False)
        else:
            if waiting is not None:
                apply(waiting, delayed=True)
            waiting = gradients
        weights.append(flat(net))
    return weights


def this_rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def start(run: Run, seed: int = 0, *, fp32: bool = False, **options: Any) -> tuple[nn.Module, HybridOptimizer]:
    torch.manual_seed(seed)
    net = Net(run.extra)
    net = net.float() if fp32 else net
    if run.wrap == "ddp":
        net = DistributedDataParallel(net, bucket_cap_mb=BUCKET_MB, gradient_as_bucket_view=True, static_graph=True)
    if run.wrap == "ddp_unused":
        net = DistributedDataParallel(net, bucket_cap_mb=BUCKET_MB, find_unused_parameters=True)
    return net, make_optimizer(net, run, **options)


@functools.cache
def shared_group() -> dist.ProcessGroup | None:
    """One group for all optimizers of a job: gloo has threads for each, and those of a hundred leave no core to the
    last."""
    return own_group(None)


def share_host_groups() -> None:
    """In a job of a test: one group for the flags of all optimizers, for the same reason."""
    delayed.host_group_of = functools.cache(host_group_of)


def make_optimizer(net: nn.Module, run: Run, **options: Any) -> HybridOptimizer:
    usual: dict[str, Any] = {
        "clip_norm": run.clip,
        "lr_factor": lr_factor,
        "bucket_cap_mb": BUCKET_MB,
        "correction": run.correction,
    }
    if dist.is_initialized():
        usual["group"] = shared_group()
    usual |= {"dense_update": run.update, "warmup_sync_steps": run.warmup, "accumulation_steps": run.accumulation}
    return HybridOptimizer(net, DENSE[run.dense], **usual | options)


def flat(module: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def run_step(module: nn.Module, optimizer: HybridOptimizer, step: int, accumulation: int = 1) -> None:
    """As a stock pipeline does: clear, backward, step for every batch."""
    for batch in range((step - 1) * accumulation, step * accumulation):
        optimizer.zero_grad()
        module(batch, this_rank()).backward()
        optimizer.step()


def trajectory(run: Run) -> list[Tensor]:
    """The weights after every step on this rank; ranks begin with different ones."""
    net, optimizer = start(run, seed=this_rank())
    weights = []
    for step in range(1, STEPS + 1):
        if optimizer.dense_update != update_of(run, step):
            optimizer.dense_update = update_of(run, step)
        run_step(net, optimizer, step, run.accumulation)
        weights.append(flat(net))
    reduce = optimizer.all_reduce
    assert reduce is None or len(reduce._buckets) >= 5
    return weights


def resumed(run: Run, at: int, **options: Any) -> tuple[Tensor, Tensor]:
    """The last weights without a stop, and those of a new process's objects that went on from step `at`."""
    net, optimizer = start(run, **options)
    for step in range(1, at + 1):
        run_step(net, optimizer, step, run.accumulation)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    for step in range(at + 1, STEPS + 1):
        run_step(net, optimizer, step, run.accumulation)
    other, other_optimizer = start(run, seed=7, **options)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    for step in range(at + 1, STEPS + 1):
        run_step(other, other_optimizer, step, run.accumulation)
    optimizer.flush()
    other_optimizer.flush()
    assert (optimizer.steps, optimizer.applied) == (other_optimizer.steps, other_optimizer.applied)
    return flat(net), flat(other)


RESUMED = [
    *(Run(dense, extra=True) for dense in DENSE),
    Run("adamw", "sync"),
    Run("adamw", warmup=5),
    Run("sgd", accumulation=3),
    *(Run("adamw", correction=kind) for kind in ("extrapolate", "error_feedback")),
]
RESUMED_AT = (1, 3, 7)  # after 3 steps `extra` has had no gradient yet
