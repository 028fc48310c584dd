"""Both ranks issue the collectives of all groups in one order, whatever their batches hold.

NCCL asks for it: the groups of TorchRec and of the dense gradients may be in flight at once. Gloo does not, so that a
wrong order shows here as a difference and not as a job that hangs.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dist_rec.optim.delayed import DelayedAllReduce
from dist_rec.optim.hybrid import HybridOptimizer
from tests.helpers.collectives import Collectives
from tests.helpers.ranks import run_ranks
from tests.integration import jobs
from tests.training.runs import make_config, run, these_ranks, write_dataset

STEPS = 6
# Rank 1 has fewer requests in every step and none in the last ones.
UNEVEN = {"train": [8, 3, 8, 1, 8], "valid": [5], "test": [6]}
RECIPES: dict[str, dict[str, Any]] = {
    "sync": {"dense_update": "sync"},
    "delayed": {"dense_update": "delayed", "warmup_sync_steps": 2},
    "delayed, clipped, accumulated, bf16": {
        **{"dense_update": "delayed", "warmup_sync_steps": 1, "clip_norm": 0.1, "accumulation_steps": 2},
        "compress": "bf16",
    },
}


def _train(data: str, out: str) -> dict[str, list[str]]:
    """LONGER by a recipe, from the start to the test: what each run issued."""
    ranks, found = these_ranks(), {}
    for name, optim in RECIPES.items():
        config = make_config(
            *(Path(data), Path(out)),
            data={"batch_size": 4},
            optim={"bucket_cap_mb": 0.002, **optim},
            run={"epochs": 2, "eval_every": 3},
        )
        with Collectives() as seen:
            run(config, ranks, name.replace(", ", "-"))
        found[name] = seen.order
    return found


def test_a_recipe_with_unequal_data(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    data = write_dataset(tmp_path / "data", UNEVEN)
    first, second = run_ranks(_train, 2, str(data), str(tmp_path / "out"))
    assert first == second
    for order in first.values():
        assert len({entry.split(":")[0] for entry in order}) >= 2 and len(order) > 100
        assert any("alltoall" in entry for entry in order)


@dataclass
class Batch(jobs.Batch):
    """`optional`: whether the loss depends on the optional layer."""

    optional: bool = True

    def to(self, device: torch.device, non_blocking: bool = False, data_copy_stream: Any = None) -> "Batch":
        return self


class Head(nn.Module):
    """The optional layer is between the others, so that its gradient comes in the middle of the backward."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.optional, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 1)

    def forward(self, found: Any, batch: Batch) -> Tensor:
        rows = torch.cat([found[name].values() for name in sorted(found.keys())])
        rows = self.first(rows)
        return self.last(self.optional(rows) if batch.optional else rows).square().sum() / jobs.SAMPLES


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ec, self.head = jobs.sequences(), Head()

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        loss = self.head(self.ec(batch.features), batch)
        return loss, loss.detach()


def _batches() -> list[Batch]:
    """Rank 1 has no ids in step 3, and does not use the optional layer from the second step on, but in the fifth."""
    made = []
    for step in range(STEPS):
        last = dist.get_rank() == 1
        features = jobs.features(step)
        if last and step == 3:
            features = type(features)(
                features.keys(), features.values()[:0], lengths=torch.zeros_like(features.lengths())
            )
        made.append(Batch(features, torch.zeros(1), optional=not last or step in (0, 5)))
    return made


@dataclass(frozen=True)
class Job:
    """Options of the optimizer; whether DDP wraps the dense part; what the job does between backward and step."""

    options: dict[str, Any]
    ddp: bool = False
    between: str = ""
    whole: bool = field(default=False)  # every rank uses every parameter


DELAYED: dict[str, Any] = {"dense_update": "delayed", "warmup_sync_steps": 2}
JOBS = {
    "delayed": Job(DELAYED),
    "delayed from the first step, bf16": Job({"warmup_sync_steps": 0, "compress": "bf16"}),
    "accumulated": Job(DELAYED | {"accumulation_steps": 2}),
    "clipped": Job(DELAYED | {"clip_norm": 0.1}),
    "clipped by the job": Job(DELAYED, between="clip", whole=True),
    "skipped by the job": Job(DELAYED, between="skip"),
    "delayed under DDP": Job(DELAYED, ddp=True),
    "sync": Job({"dense_update": "sync"}),
    "sync, every parameter used": Job({"dense_update": "sync"}, whole=True),
    "sync under DDP": Job({"dense_update": "sync"}, ddp=True),
}


def _steps(name: str) -> list[list[str]]:
    """What each call of the pipeline issued."""
    job = JOBS[name]
    wrapper = DefaultDataParallelWrapper(static_graph=False, find_unused_parameters=True)
    dmp = jobs.shard(Model(), "row_wise", init_data_parallel=job.ddp, data_parallel_wrapper=wrapper)
    optimizer = HybridOptimizer(dmp, lambda p: torch.optim.AdamW(p, lr=0.1), bucket_cap_mb=1e-5, **job.options)
    batches = _batches()
    for batch in batches if job.whole else ():
        batch.optional = True

    def between(*_: Any) -> None:
        if job.between == "clip":
            nn.utils.clip_grad_norm_([p for n, p in dmp.named_parameters() if "head" in n], 0.1)
        elif job.between == "skip" and optimizer.steps % 2:
            optimizer.zero_grad()

    optimizer.register_step_pre_hook(between)
    issued: list[list[str]] = []
    with Collectives() as seen:
        pipeline = TrainPipelineSparseDist(dmp, optimizer, jobs.CPU, execute_all_batches=True)
        rest = iter(batches)
        for _ in range(STEPS):
            pipeline.progress(rest)
            issued.append(seen.take())
        optimizer.flush()
    return [*issued, seen.take()]


def _all_jobs() -> dict[str, list[list[str]]]:
    return {name: _steps(name) for name in JOBS}


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, list[list[str]]]]:
    return run_ranks(_all_jobs, 2, timeout_s=240.0)


@pytest.mark.parametrize("job", JOBS)
def test_a_job_in_which_one_rank_leaves_a_parameter_out(two_ranks: list[dict[str, list[list[str]]]], job: str) -> None:
    first, second = (rank[job] for rank in two_ranks)
    assert len(first) == STEPS + 1 and all(any("alltoall" in entry for entry in step) for step in first[:-1])
    same = [a == b for a, b in zip(first, second, strict=True)]
    # Inside the backward of a synchronous update, no rank knows in time that another leaves the parameter out.
    unknown = {1} if job == "sync" else set()
    assert [step for step, equal in enumerate(same) if not equal] == sorted(unknown)


def _inside_the_backward() -> list[list[str]]:
    with mock.patch.object(DelayedAllReduce, "in_backward", property(lambda _: True, lambda *_: None), create=True):
        return _steps("delayed")


def test_buckets_inside_the_backward_would_be_noticed() -> None:
    first, second = run_ranks(_inside_the_backward, 2)
    assert [a == b for a, b in zip(first, second, strict=True)] == [True, False, True, True, True, True, True]
