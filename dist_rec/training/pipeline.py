"""Sharding a model and feeding TorchRec's pipeline.

`TrainPipelineSparseDist` keeps three batches in flight:

    stage           batch k            batch k + 1               batch k + 2
    stream          default            data dist                 memcpy
    work            forward,           all-to-all of             host -> device
                    backward, step     unique ids                copy
"""

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch import nn
from torchdata.stateful_dataloader import StatefulDataLoader
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import PrefetchTrainPipelineSparseDist, TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan

from dist_rec.config import Config, EmbeddingConfig, OptimConfig
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.ngram.counts import NgramUse
from dist_rec.data.schema import Schema
from dist_rec.embedding.cache import caches
from dist_rec.embedding.dynamic_tables import dynamic_tables, start_dynamic_ids
from dist_rec.embedding.plan import default_sharders, fuse_optimizer, make_plan
from dist_rec.models.build import RankingModel, build_model
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.schedule import lr_factor
from dist_rec.training.freeze import freeze
from dist_rec.training.interrupt import Asked
from dist_rec.training.optimizers import dense_factory
from dist_rec.training.ranks import Ranks


def plan_model(schema: Schema, config: Config, ranks: Ranks) -> tuple[RankingModel, ShardingPlan]:
    """The unsharded model and where each of its tables goes."""
    model = build_model(schema, config, ranks.device)
    freeze(model, config)
    fuse_optimizer(model.embedding.collections, config.embedding, ranks.device, model.embedding.frozen)
    # The planner sizes its buffers by the ids of a key in a batch: with batch_events at most one per event.
    batch = config.data.batch_size or config.data.batch_events
    assert batch is not None, "one of them is always given"
    return model, make_plan(model, config.embedding, ranks.device, ranks.world_size, batch)


def shard_model(model: RankingModel, plan: ShardingPlan, config: Config, ranks: Ranks) -> DistributedModelParallel:
    """Tables sharded by the plan; the dense part under DDP only where updates are synchronous."""
    dmp = DistributedModelParallel(
        model,
        device=ranks.device,
        plan=plan,
        sharders=default_sharders(config.embedding, ranks.device),
        init_data_parallel=config.optim.dense_update == "sync",
    )
    start_dynamic_ids(
        dmp, init_scale=config.embedding.init_scale, seed=config.run.seed, rank=ranks.rank, ranks=ranks.world_size
    )
    return dmp


def make_optimizer(
    dmp: nn.Module, config: OptimConfig, total_updates: int, ranks: Ranks, health_every: int = 0
) -> HybridOptimizer:
    """The hybrid optimizer of a recipe."""
    return HybridOptimizer(
        dmp,
        dense_factory(config),
        dense_update=config.dense_update,
        warmup_sync_steps=config.warmup_sync_steps,
        accumulation_steps=config.accumulation_steps,
        skip_nonfinite=config.skip_nonfinite,
        correction=config.correction,
        delayed_lr_factor=config.delayed_lr_factor,
        health_every=health_every,
        bucket_cap_mb=config.bucket_cap_mb,
        compress=config.compress,
        clip_norm=config.clip_norm,
        lr_factor=lr_factor(config, total_updates),
        group=ranks.dense_group,
    )


def teach_by_version(model: RankingModel, optimizer: HybridOptimizer) -> None:
    """Shows a teacher every version of the dense weights that the optimizer has applied, once, whatever its delay."""
    if model.objective.teacher is not None:
        optimizer.register_update_hook(partial(model.objective.teacher.advance, model.ranker))


def make_pipeline(
    dmp: nn.Module, optimizer: HybridOptimizer, config: EmbeddingConfig, device: torch.device
) -> TrainPipelineSparseDist[Any, Any]:
    """TorchRec's pipeline; with tables in host memory, the one that also fetches the next batch's rows ahead."""
    kind = PrefetchTrainPipelineSparseDist if caches(config, device) else TrainPipelineSparseDist
    # Raw ids become rows a batch ahead, too.
    return kind(dmp, optimizer, device, pipeline_postproc=dynamic_tables(dmp.modules()) is not None)


@dataclass(frozen=True)
class BatchSize:
    """What one rank's batch held, what crossed to the device, in bytes, with and without dedup, for how many seconds
    the step waited for it, requests that could not be read, the events and candidates that a filter saw, by action, and
    the use of n-grams, which is known when the batch is on its device."""

    requests: int
    candidates: int
    events: int
    nbytes: int
    plain_bytes: int
    waited: float
    lost: int = 0
    filtered: dict[str, int] = field(default_factory=dict)
    ngram_use: dict[str, NgramUse] = field(default_factory=dict)

    @classmethod
    def of(cls, batch: HostBatch, waited: float) -> "BatchSize":
        return cls(
            requests=batch.num_requests,
            candidates=batch.num_candidates,
            events=batch.num_events,
            nbytes=batch.nbytes,
            plain_bytes=batch.plain_bytes,
            waited=waited,
            lost=batch.lost,
            filtered=batch.filtered,
            ngram_use=batch.ngram_use,
        )


class CountedBatches(Iterator[HostBatch]):
    """A loader's batches with `candidates_per_rank` filled in: the candidates that are trained in an update, over all
    ranks and all of its batches, for each rank and batch. So the gradient of an update is that of the mean over its
    candidates, however they are spread.

    The pipeline fetches batches before it trains on them; `trained()` gives the size of the one that was trained on.

    When some rank is `asked` to end, the batches end on all ranks after the same update, and `ended` is true.

    Comm: one host all-reduce of a few numbers per update.
    """

    def __init__(
        self, loader: StatefulDataLoader, ranks: Ranks, per_update: int = 1, asked: Asked | None = None
    ) -> None:
        self._batches, self._ranks, self._per_update = iter(loader), ranks, per_update
        self._asked, self.ended = asked or Asked(), False
        self._update: deque[HostBatch] = deque()  # its batches that are still to be given
        self._ahead: deque[BatchSize] = deque()

    def __next__(self) -> HostBatch:
        if not self._update:
            self._read_update()
        return self._update.popleft()

    def _read_update(self) -> None:
        if self.ended:
            raise StopIteration
        began = time.perf_counter()
        batches = list(islice(self._batches, self._per_update))
        if not batches:
            raise StopIteration
        waited = (time.perf_counter() - began) / len(batches)
        for batch in batches:
            self._ahead.append(BatchSize.of(batch, waited))
        targets = map(sum, zip(*(batch.num_targets for batch in batches), strict=True))
        *totals, asked = self._ranks.total(*targets, self._asked.now)
        self.ended = asked > 0
        for batch in batches:
            batch.set_candidates_per_rank([of / (self._ranks.world_size * len(batches)) for of in totals])
        self._update.extend(batches)

    def trained(self) -> BatchSize:
        return self._ahead.popleft()


def run_through(pipeline: TrainPipelineSparseDist[Any, Any], batches: Iterator[HostBatch]) -> Iterator[Any]:
    """Outputs of every step until `batches` ends; then nothing is in flight and the model has its own forward again, so
    that it may be evaluated or saved."""
    # After a detach() the pipeline that prefetches needs it said; the others attach by themselves.
    pipeline.attach()
    while True:
        try:
            output = pipeline.progress(batches)
        except StopIteration:
            break
        yield output
    pipeline.detach()
