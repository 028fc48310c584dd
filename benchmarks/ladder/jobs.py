"""A row of the ladder as a job on this rank: sharded model, optimizer, TorchRec's pipeline and batches."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import EmbeddingModuleShardingPlan, ShardingPlan
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

from benchmarks.ladder.cell import LR, Cell, batches_of, history_lengths
from benchmarks.ladder.plain_batch import collate_plain
from benchmarks.ladder.plain_hyformer import PlainEncoder, PlainMixer
from benchmarks.ladder.plain_longer import PlainBlock, PlainInner
from benchmarks.ladder.plain_ranker import PlainModel, PlainRanker, plain_tables
from benchmarks.ladder.plain_tokens import PlainTokens
from benchmarks.ladder.rows import Row
from dist_rec.config import Config
from dist_rec.data import DedupLoader
from dist_rec.data.collate import collate
from dist_rec.data.columns import CANDIDATE, CONTEXT, Ints
from dist_rec.data.schema import Schema
from dist_rec.embedding import DedupEmbeddingCollection
from dist_rec.embedding.plan import default_sharders, fuse_optimizer
from dist_rec.models.build import RankingModel
from dist_rec.models.layers.heads import Head
from dist_rec.optim import HybridOptimizer
from dist_rec.training.pipeline import CountedBatches, make_optimizer, plan_model, run_through
from dist_rec.training.ranks import Ranks

# A row that repeats histories trains on one batch of a block where a batch has more: it takes seconds.
MOST_REPEATED_EVENTS = 200_000
COMPILED = (PlainTokens, PlainBlock, PlainInner, PlainEncoder, PlainMixer, Head, nn.Sequential)


@dataclass(frozen=True)
class Start:
    """What all rows start from: requests of this rank, weights of the dense part, whole tables and where they go."""

    cell: Cell
    folder: Path
    ranks: Ranks
    schema: Schema
    requests: pa.Table
    dense: Mapping[str, Tensor]
    tables: Mapping[str, Tensor]
    placed: Mapping[str, Any]  # table -> TorchRec's ParameterSharding

    @classmethod
    def of(cls, cell: Cell, folder: Path, ranks: Ranks, schema: Schema, requests: pa.Table) -> "Start":
        """The same on every rank. Comm: the plan, from rank 0."""
        config = cell.recipe(folder)
        torch.manual_seed(0)
        model, plan = plan_model(schema, config, ranks)
        scale = config.embedding.init_scale
        tables = {
            name: torch.empty(size, config.embedding.dim_of(name)).uniform_(-scale, scale)
            for name, size in schema.tables.items()
        }
        placed = {table: where for of_module in plan.plan.values() for table, where in of_module.items()}  # pyright: ignore
        dense = {name: of.clone() for name, of in model.ranker.state_dict().items()}
        return cls(cell, folder, ranks, schema, requests, dense, tables, placed)

    @cached_property
    def lengths(self) -> Ints:
        return history_lengths(self.requests, self.schema)


class Job:
    """One row, ready to train. `collate_ms`: processor time that a batch took to make, whose step is not timed."""

    def __init__(self, row: Row, start: Start) -> None:
        self.row, self.start = row, start
        self.config = _recipe(row, start)
        model = _model(row, start, self.config)
        self.dmp = _sharded(model, start, self.config, ddp=row.update != "delayed")
        load_tables(self.dmp, start.tables)
        self.optimizer = _optimizer(row, self.dmp, self.config, start.ranks)
        self.pipeline: Any = TrainPipelineSparseDist(self.dmp, self.optimizer, start.ranks.device)
        before = time.process_time()
        self.batches = self._block_of(np.arange(len(start.lengths)))
        self.collate_ms = 1e3 * (time.process_time() - before) / len(self.batches)

    def draw(self, number: int) -> None:
        """Makes the batches of block `number` of requests drawn with repetition, the same ones for every row."""
        count = len(self.start.lengths)
        self.batches = self._block_of(np.random.default_rng(number).integers(0, count, count))

    def _block_of(self, chosen: Ints) -> list[Any]:
        parts = batches_of(self.start.lengths[chosen], self.start.cell.batch, alike=self.row.alike)
        if self.row.per_candidate and self.start.cell.repeated_events > MOST_REPEATED_EVENTS:
            parts = parts[:1]
        return self.collated([chosen[part] for part in parts])

    def collated(self, parts: list[Ints], requests: pa.Table | None = None) -> list[Any]:
        """Batches of some of the requests, as the reader of this row makes them; for a GPU in pinned memory."""
        table = self.start.requests if requests is None else requests
        batches = [self._collate(table.take(part).combine_chunks()) for part in parts]
        return [batch.pin_memory() for batch in batches] if self.start.ranks.device.type == "cuda" else batches

    def _collate(self, table: pa.Table) -> Any:
        if self.row.batch == "packet":
            return collate(table, self.start.schema)
        dtype = torch.int32 if self.row.batch == "int32" else torch.int64
        padded = not self.row.packed
        batch = collate_plain(
            table, self.start.schema, per_candidate=self.row.per_candidate, padded=padded, dtype=dtype
        )
        return self._deduplicator.deduplicate(batch) if self.row.batch == "unique" else batch

    @cached_property
    def _deduplicator(self) -> DedupLoader:
        schema = self.start.schema
        owners = {CONTEXT: schema.context, CANDIDATE: schema.candidate.ids} | {
            of.name: of.ids for of in schema.sequences
        }
        sizes = {f"{owner}.{field.name}": schema.tables[field.table] for owner, ids in owners.items() for field in ids}
        sets = [[f"{owner}.{field.name}" for field in ids] for owner, ids in owners.items()]
        return DedupLoader([], sets, num_embeddings=sizes)

    @property
    def nbytes(self) -> float:
        """Bytes of a batch that cross to the device, in the mean."""
        return float(np.mean([batch.nbytes for batch in self.batches]))

    def train(self, batches: list[Any]) -> Iterator[Any]:
        """Trains on batches by the pipeline, which is empty again afterwards."""
        source: Any = iter(batches)
        if self.row.update != "ddp":  # as in dist_rec's own loop
            source = CountedBatches(source, self.start.ranks)
        return run_through(self.pipeline, source)

    def flush(self) -> None:
        if isinstance(self.optimizer, HybridOptimizer):
            self.optimizer.flush()

    @torch.no_grad()
    def predict(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Logits and labels (C, T) float32; on every rank at once."""
        self.dmp.eval()
        there = batch.to(self.start.ranks.device)
        _, (_, logits, *_) = self.dmp(there)  # a plain model has no more to say
        self.dmp.train()
        return logits.float(), there.labels


def _recipe(row: Row, start: Start) -> Config:
    parts = {"longer": "tokens, inner, cross, self", "hyformer": "tokens, encoders, decoders, mixer"}[start.cell.model]
    update = "delayed" if row.update == "delayed" else "sync"
    settings = tuple(each.format(parts=parts) for each in row.recipe)
    return start.cell.recipe(start.folder, (f"optim.dense_update={update}", *settings))


def _model(row: Row, start: Start, config: Config) -> nn.Module:
    """With the weights of `start` in its dense part."""
    if row.batch == "packet":
        model, _ = plan_model(start.schema, config, start.ranks)
        if row.model == "factorised":
            ranker: Any = PlainRanker(start.schema, config, packed=True, factorised=True)
            model = RankingModel(model.embedding, ranker, model.objective)
    else:
        tables: nn.Module = plain_tables(start.schema, config)
        fuse_optimizer(tables, config.embedding, start.ranks.device)
        if row.batch == "unique":
            tables = DedupEmbeddingCollection(tables)  # pyright: ignore[reportArgumentType]
        model = PlainModel(tables, PlainRanker(start.schema, config, packed=row.packed, factorised=False))
    model.ranker.load_state_dict(start.dense)
    if row.compiled:
        _compile(model.ranker)
    return model


def _compile(module: nn.Module) -> None:
    """torch.compile of the outermost parts that take tensors alone: index arithmetic on the host, which both models
    have between them, breaks its graphs."""
    for child in module.children():
        if isinstance(child, COMPILED):
            child.compile(dynamic=True)
        else:
            _compile(child)


def _sharded(model: nn.Module, start: Start, config: Config, *, ddp: bool) -> DistributedModelParallel:
    """Every row has its tables at the same places."""
    plan = {
        path: EmbeddingModuleShardingPlan(
            {table.name: start.placed[table.name] for table in module.embedding_configs()}
        )
        for path, module in model.named_modules()
        if isinstance(module, EmbeddingCollection)
    }
    return DistributedModelParallel(
        model,
        device=start.ranks.device,
        plan=ShardingPlan(plan),
        sharders=default_sharders(config.embedding, start.ranks.device),
        init_data_parallel=ddp,
    )


def _optimizer(row: Row, dmp: nn.Module, config: Config, ranks: Ranks) -> torch.optim.Optimizer:
    def adamw(parameters: Any) -> torch.optim.Optimizer:
        fused = True if row.optimizer == "fused" else None
        return torch.optim.AdamW(parameters, lr=LR, weight_decay=config.optim.weight_decay, fused=fused)

    if row.update == "ddp":
        dense = KeyedOptimizerWrapper(dict(in_backward_optimizer_filter(dmp.named_parameters())), adamw)
        return CombinedOptimizer([dmp.fused_optimizer, dense])  # pyright: ignore[reportArgumentType]
    if row.optimizer == "fused":
        return HybridOptimizer(dmp, adamw, dense_update=row.update, warmup_sync_steps=0, group=ranks.dense_group)
    return make_optimizer(dmp, config.optim, 1, ranks)


def load_tables(dmp: nn.Module, tables: Mapping[str, Tensor]) -> None:
    """Writes whole tables (rows, D) into the shards of this rank.

    Raises ValueError for a table that the model does not have."""
    state = dmp.state_dict()
    for table, whole in tables.items():
        sharded = [of for name, of in state.items() if name.endswith(f".{table}.weight") and "embedding" in name]
        if len(sharded) != 1:
            raise ValueError(f"tables: expected one parameter of table {table!r} in the model, got {len(sharded)}")
        for shard in sharded[0].local_shards():
            row, column = shard.metadata.shard_offsets
            rows, columns = shard.metadata.shard_sizes
            with torch.no_grad():
                shard.tensor.copy_(whole[row : row + rows, column : column + columns])
