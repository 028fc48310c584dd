"""Training steps on batches that are there already: model, tables, pipeline and both optimizers of a recipe, without a
reader and without logs."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from dist_rec.config import Config
from dist_rec.cost.ledger import Ledger
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.kernels.common.native import told_of_calls
from dist_rec.models.build import RankingModel
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.pipeline import (
    CountedBatches,
    make_optimizer,
    make_pipeline,
    plan_model,
    run_through,
    shard_model,
)
from dist_rec.training.ranks import Ranks

UPDATES = 1_000_000  # of the schedule of learning rates, which stays where it starts


@dataclass(frozen=True)
class TrainingSteps:
    """What makes a step. A delayed update is delayed from the first step on: its start in step costs what `sync`
    costs."""

    model: RankingModel
    dmp: nn.Module
    optimizer: HybridOptimizer
    pipeline: TrainPipelineSparseDist[Any, Any]
    ranks: Ranks

    @classmethod
    def of(cls, config: Config, schema: Schema, ranks: Ranks) -> "TrainingSteps":
        """Every rank calls it. Comm: as the start of a run."""
        model, plan = plan_model(schema, config, ranks)
        dmp = shard_model(model, plan, config, ranks)
        optim = config.optim.model_copy(update={"warmup_sync_steps": 0})
        optimizer = make_optimizer(dmp, optim, UPDATES, ranks)
        return cls(model, dmp, optimizer, make_pipeline(dmp, optimizer, config.embedding, ranks.device), ranks)

    def run(self, batches: Iterable[HostBatch]) -> Iterator[None]:
        """A step per batch; every rank needs as many. Comm: as training."""
        counted = CountedBatches(iter(batches), self.ranks)  # pyright: ignore[reportArgumentType] - any iterable
        for _ in run_through(self.pipeline, counted):
            counted.trained()
            yield

    def count(self, batch: HostBatch, stages: dict[nn.Module, str]) -> Ledger:
        """The operators of one step, once the pipeline is full; `stages` of modules, "exchange" of what is in none."""
        ledger = Ledger("exchange")
        running, step = self.run([batch] * 6), self.optimizer.step

        def update(*arguments: Any) -> None:
            ledger.stage = "optimizer"
            step(*arguments)
            ledger.stage = "exchange"

        next(running)
        next(running)  # optimizers have their state, and with a delayed update there is a gradient to apply
        object.__setattr__(self.optimizer, "step", update)
        try:
            with told_of_calls(ledger.hear), ledger, ledger.inside(stages):
                next(running)
        finally:
            object.__delattr__(self.optimizer, "step")
        list(running)
        return ledger
