"""Stock, deduplicated, with HybridOptimizer and with both: the same losses, and checkpoints that go both ways."""

import itertools
import logging
import tempfile
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torchdata.stateful_dataloader import StatefulDataLoader
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from benchmarks.public_jobs import JOBS, Job
from dist_rec.data.dedup_loader import DedupLoader
from dist_rec.optim import HybridOptimizer
from tests.helpers.ranks import run_ranks
from tests.integration.jobs import CPU, shard, wrapped

STEPS = 4


def _adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=0.01)


class _Run:
    """One of the jobs, its model and optimizer with or without our parts."""

    def __init__(self, job: Job, dedup: str, hybrid: bool) -> None:
        self.job, self.dedup = job, dedup
        self.dmp = shard(job.model(lambda collection: wrapped(collection, dedup)))
        if hybrid:
            self.optimizer: Any = HybridOptimizer(self.dmp, dense=_adam, dense_update="sync")
        else:
            dense = KeyedOptimizerWrapper(dict(in_backward_optimizer_filter(self.dmp.named_parameters())), _adam)
            self.optimizer = CombinedOptimizer([self.dmp.fused_optimizer, dense])

    def train(self, first: int = 0, steps: int = STEPS) -> list[float]:
        data = [self.job.batch(seed) for seed in range(first, first + steps)]
        batches, losses = iter(DedupLoader(data) if self.dedup == "host" else data), []
        if self.job.pipelined:
            more = {"pipeline_postproc": True} if self.dedup == "device" else {}
            pipeline = TrainPipelineSparseDist(self.dmp, self.optimizer, CPU, **more)
            while True:
                try:
                    losses.append(float(pipeline.progress(batches)))
                except StopIteration:
                    pipeline.detach()
                    return losses
        for batch in batches:
            self.optimizer.zero_grad()
            loss, _ = self.dmp(batch)
            loss.backward()
            self.optimizer.step()
            losses.append(float(loss.detach()))
        return losses


def _losses() -> list[str]:
    logging.disable()
    warnings.simplefilter("ignore")
    found = []
    for name, job in JOBS.items():
        stock = _Run(job, "none", False).train()
        if _Run(job, "none", True).train() != stock:
            found.append(f"{name}: HybridOptimizer in step is not the stock optimizer to the bit")
        for dedup in ("host", "device"):
            got = _Run(job, dedup, False).train()
            if not torch.allclose(torch.tensor(got), torch.tensor(stock), rtol=3e-6, atol=0) or got[0] != stock[0]:
                found.append(f"{name}, {dedup}: {got}, not {stock}")
            if _Run(job, dedup, True).train() != got:
                found.append(f"{name}, {dedup}: with HybridOptimizer not what it is without, to the bit")
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_losses_are_those_of_the_stock_job(world_size: int) -> None:
    for complaints in run_ranks(_losses, world_size):
        assert not complaints, "\n".join(complaints)


def _passed_on(giver: _Run, taker: _Run, by_dcp: bool) -> None:
    """Model and fused optimizer states; the dense optimizer is anew on both sides."""
    state = _state(giver)
    if by_dcp:
        folder = [tempfile.mkdtemp() if dist.get_rank() == 0 else ""]
        dist.broadcast_object_list(folder)
        dcp.save(state, checkpoint_id=folder[0])
        state = _state(taker)
        dcp.load(state, checkpoint_id=folder[0])
    taker.dmp.load_state_dict(state["model"])
    if "fused" in state:
        taker.dmp.fused_optimizer.load_state_dict(state["fused"])


def _state(run: _Run) -> dict[str, Any]:
    """DCP takes an empty dict, that of a rank without a table, for a missing tensor."""
    fused = run.dmp.fused_optimizer.state_dict()
    return {"model": run.dmp.state_dict()} | ({"fused": fused} if fused["state"] else {})


def _resumed() -> list[str]:
    """Stock -> deduplicated -> stock: after each the losses go on as those of a stock job that was resumed alike."""
    logging.disable()
    warnings.simplefilter("ignore")
    found = []
    for name, job in JOBS.items():
        for by_dcp in (False, True):
            routes = []
            for middle in ("none", "host"):
                runs = [_Run(job, dedup, False) for dedup in ("none", middle, "none")]
                losses = [runs[0].train(0, 2)]
                for step, (giver, taker) in enumerate(itertools.pairwise(runs), start=1):
                    _passed_on(giver, taker, by_dcp)
                    losses.append(taker.train(2 * step, 2))
                routes.append(torch.tensor(losses))
            if not torch.allclose(*routes, rtol=3e-6, atol=0):
                found.append(f"{name}, DCP {by_dcp}: {routes}")
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_checkpoints_go_on_either_way(world_size: int) -> None:
    for complaints in run_ranks(_resumed, world_size):
        assert not complaints, "\n".join(complaints)


def _position() -> tuple[list[int], int]:
    """A pipeline holds batches that the loader has handed out; saved with them counted, none is lost and none comes
    twice."""
    logging.disable()
    warnings.simplefilter("ignore")

    def loader() -> DedupLoader:
        return DedupLoader(StatefulDataLoader([JOBS["two-tower"].batch(seed) for seed in range(8)], batch_size=None))  # pyright: ignore[reportArgumentType]

    run, batches = _Run(JOBS["two-tower"], "host", False), loader()
    pipeline, source = TrainPipelineSparseDist(run.dmp, run.optimizer, CPU), iter(batches)
    for _ in range(3):
        pipeline.progress(source)
    held = len(pipeline.batches)
    state = batches.state_dict(untrained=held)
    again = loader()
    again.load_state_dict(state)
    rest = [float(batch.label.sum()) for batch in again]
    expected = [float(JOBS["two-tower"].batch(seed).label.sum()) for seed in range(3, 8)]
    return [int(rest == expected)], held


def test_a_position_without_what_the_pipeline_holds() -> None:
    assert run_ranks(_position, 1) == [([1], 2)]
