"""A sharded RankingModel that starts from known weights, trained on one rank's part of a global batch."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel

from dist_rec.common.choices import DenseUpdate
from dist_rec.config import Config
from dist_rec.data.batch import SequenceBatch
from dist_rec.data.collate import collate
from dist_rec.data.filter.event_filter import make_filter, needs_hidden
from dist_rec.data.schema import Schema
from dist_rec.embedding.plan import default_sharders, fuse_optimizer, make_plan
from dist_rec.models.build import build_model
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.splits import training_targets
from tests.data.feedback_rows import NOW, feedback_schema
from tests.data.requests import make_schema, make_table
from tests.models.batches import Row, model_config

CPU = torch.device("cpu")
TABLES = "embedding.collections."
Update = Literal["sync", "delayed", "ddp"]  # ddp: sync, with the all-reduce done by DDP
DENSE: dict[str, Callable[[list[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01),
}


@dataclass(frozen=True)
class Shard:
    """A piece of a table: rows and columns from `offset` on."""

    offset: tuple[int, int]
    values: Tensor


@dataclass(frozen=True)
class Trained:
    """What one rank has after some steps: loss per step, its shards of each table, its dense parameters."""

    losses: list[float]
    shards: dict[str, list[Shard]]
    dense: dict[str, Tensor]


def sharded_config(
    model: dict[str, Any] | None = None,
    event_filter: dict[str, Any] | None = None,
    distill: dict[str, Any] | None = None,
    **embedding: Any,
) -> Config:
    """All tables `dim` wide; `model` are changes of `model_config`, `embedding` of the defaults of EmbeddingConfig.

    With `distill` requests are those of `feedback_rows`."""
    tree = {
        "data": {"path": "unused", "filter": event_filter, "observed_at": None if distill is None else NOW},
        "distill": distill,
        "model": model_config(**model or {}).model_dump(),
        "embedding": {"dim": 8} | embedding,
    }
    return Config.model_validate(tree)


def schema_of(config: Config) -> Schema:
    schema = make_schema() if config.distill is None else feedback_schema()
    return Schema.model_validate(schema.model_dump() | {"hidden": needs_hidden(config.data.filter, schema)})


def shard(config: Config, ddp: bool) -> DistributedModelParallel:
    """The model of `make_schema()`, the same weights on any number of ranks."""
    torch.manual_seed(0)
    model = build_model(schema_of(config), config, CPU)
    fuse_optimizer(model.embedding.collections, config.embedding, CPU)
    plan = make_plan(model, config.embedding, CPU, dist.get_world_size(), batch_size=8)
    dmp = DistributedModelParallel(
        model, device=CPU, plan=plan, sharders=default_sharders(config.embedding, CPU), init_data_parallel=ddp
    )
    for name, shards in _local_shards(dmp).items():
        whole = initial_table(name, config)
        for piece in shards:
            row, column = piece.offset
            piece.values.copy_(whole[row : row + piece.values.shape[0], column : column + piece.values.shape[1]])
    return dmp


def initial_table(name: str, config: Config) -> Tensor:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    override = config.embedding.tables.get(name)
    dim = config.embedding.dim if override is None or override.dim is None else override.dim
    return torch.randn(schema_of(config).rows_of(name), dim, generator=generator)


def train(config: Config, steps: list[list[list[Row]]], update: Update, dense: str = "sgd") -> Trained:
    """One optimizer step per entry of `steps`, which holds the rows of every rank."""
    dmp = shard(config, ddp=update == "ddp")
    kind: DenseUpdate = "delayed" if update == "delayed" else "sync"
    hybrid = HybridOptimizer(
        dmp, DENSE[dense], dense_update=kind, warmup_sync_steps=0, clip_norm=1.0, group=dist.group.WORLD
    )
    teacher = dmp.module.objective.teacher
    if teacher is not None:
        hybrid.register_update_hook(partial(teacher.advance, dmp.module.ranker))
    losses = []
    for rows in steps:
        hybrid.zero_grad()
        loss, _ = dmp(local_batch(rows, config))
        loss.backward()
        hybrid.step()
        losses.append(loss.item())
    hybrid.flush()
    weights = {name: p.detach().clone() for name, p in dmp.module.named_parameters() if not name.startswith(TABLES)}
    shards = {
        name: [Shard(piece.offset, piece.values.clone()) for piece in pieces]
        for name, pieces in _local_shards(dmp).items()
    }
    return Trained(losses, shards, weights)


def local_batch(rows: list[list[Row]], config: Config) -> SequenceBatch:
    """This rank's part of a global batch; all of it where there is one rank."""
    schema, everything = schema_of(config), [row for part in rows for row in part]
    acting = make_filter(config.data.filter, schema, training=True)
    mine = rows[dist.get_rank()] if dist.get_world_size() > 1 else everything
    targets = training_targets(config, schema)
    batch, together = (
        collate(make_table(of, schema), schema, event_filter=acting, targets=targets) for of in (mine, everything)
    )
    ranks = dist.get_world_size()
    batch.set_candidates_per_rank([of / ranks for of in together.num_targets])
    return batch.to(CPU)


def _local_shards(dmp: DistributedModelParallel) -> dict[str, list[Shard]]:
    """Views of this rank's pieces of every sharded table."""
    found = {}
    for key, value in dmp.module.state_dict().items():
        if key.startswith(TABLES):
            name = key.split(".")[-2]
            found[name] = [
                Shard((piece.metadata.shard_offsets[0], piece.metadata.shard_offsets[1]), piece.tensor.detach())
                for piece in value.local_shards()
            ]
    return found


def whole_tables(ranks: list[Trained], config: Config) -> dict[str, Tensor]:
    """Tables put together from the shards of all ranks; fails where a piece is missing."""
    tables = {}
    for name in ranks[0].shards:
        tables[name] = torch.full_like(initial_table(name, config), torch.nan)
        for rank in ranks:
            for piece in rank.shards[name]:
                (row, column), (height, width) = piece.offset, piece.values.shape
                tables[name][row : row + height, column : column + width] = piece.values
        assert not tables[name].isnan().any(), f"{name}: a part is on no rank"
    return tables
