"""A TorchRec job that is not ours, in one place: a collection of each kind, a model around it, a plan, batches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import sharding_plan
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.embedding import DedupEmbeddingBagCollection, DedupEmbeddingCollection

CPU = torch.device("cpu")
ROWS, SAMPLES = 24, 6
WIDTHS = {"t0": 8, "t1": 16, "t2": 8}  # of bags; sequences are 8 wide
FEATURES = {"t0": ["a"], "t1": ["b"], "t2": ["c", "a"]}  # the last table has two keys, and one key two tables


@dataclass
class Batch(Pipelineable):
    """A user's own batch; its `to` knows nothing of deduplication."""

    features: Any
    label: Tensor
    more: Any = None

    def to(self, device: torch.device, non_blocking: bool = False, data_copy_stream: Any = None) -> "Batch":
        more = None if self.more is None else self.more.to(device, non_blocking=non_blocking)
        return Batch(self.features.to(device, non_blocking=non_blocking), self.label.to(device), more)

    def record_stream(self, stream: Any) -> None:
        for part in (self.features, self.label, self.more):
            if part is not None:
                part.record_stream(stream)

    def pin_memory(self) -> "Batch":
        return Batch(self.features.pin_memory(), self.label.pin_memory(), self.more)


def features(seed: int, keys: Sequence[str] = "cab", samples: int = SAMPLES) -> KeyedJaggedTensor:
    """Repetitive ids, others on every rank, in another order of keys than that of the tables."""
    generator = torch.Generator().manual_seed(10 * seed + dist.get_rank() if dist.is_initialized() else seed)
    lengths = torch.randint(0, 5, (len(keys) * samples,), generator=generator)
    ids = torch.randint(0, ROWS, (int(lengths.sum()),), generator=generator)
    return KeyedJaggedTensor(list(keys), ids, lengths=lengths)


def batches(count: int) -> list[Batch]:
    return [Batch(features(seed), torch.linspace(0, 1, SAMPLES)[:, None]) for seed in range(count)]


def sequences() -> EmbeddingCollection:
    torch.manual_seed(0)
    tables = [
        EmbeddingConfig(name=n, num_embeddings=ROWS, embedding_dim=8, feature_names=f) for n, f in FEATURES.items()
    ]
    return EmbeddingCollection(tables=tables, device=CPU)


def bags() -> EmbeddingBagCollection:
    torch.manual_seed(0)
    tables = [
        EmbeddingBagConfig(
            name=name,
            num_embeddings=ROWS,
            embedding_dim=WIDTHS[name],
            feature_names=keys,
            pooling=PoolingType.MEAN if name == "t1" else PoolingType.SUM,
        )
        for name, keys in FEATURES.items()
    ]
    return EmbeddingBagCollection(tables=tables, device=CPU)


def wrapped(collection: Any, dedup: Any) -> Any:
    """The collection, deduplicated "host" or "device", or as it is ("none")."""
    if dedup == "none":
        return collection
    bag = isinstance(collection, EmbeddingBagCollection)
    return (DedupEmbeddingBagCollection if bag else DedupEmbeddingCollection)(collection, dedup)


class Head(nn.Module):
    """What a collection gives -> one number per sample."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.linear = nn.Linear(width, 1)

    def forward(self, found: Any) -> Tensor:
        names = sorted(found.keys())  # a plain sharded collection orders them by its plan
        if hasattr(found, "length_per_key"):  # a KeyedTensor
            return self.linear(torch.cat([found[name] for name in names], dim=1).tanh())
        sums = []
        for jagged in (found[name] for name in names):
            owner = torch.arange(len(jagged.lengths())).repeat_interleave(jagged.lengths())
            zeros = torch.zeros(len(jagged.lengths()), jagged.values().shape[1])
            sums.append(zeros.index_add(0, owner, jagged.values().tanh()))
        return self.linear(torch.cat(sums, dim=1))


class Model(nn.Module):
    def __init__(self, collection: nn.Module, width: int) -> None:
        super().__init__()
        self.ec, self.head = collection, Head(width)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        scores = self.head(self.ec(batch.features))
        loss = (scores - batch.label).square().mean()
        return loss, loss.detach()


def model(pooled: bool, dedup: Any) -> Model:
    collection = bags() if pooled else sequences()
    width = sum(WIDTHS[name] * len(keys) if pooled else 8 * len(keys) for name, keys in FEATURES.items())
    return Model(wrapped(collection, dedup), width)


WAYS: dict[str, Any] = {
    "table_wise": lambda table, world: sharding_plan.table_wise(rank=table % world),
    "row_wise": lambda table, world: sharding_plan.row_wise(),
    "column_wise": lambda table, world: sharding_plan.column_wise(
        ranks=[0, world - 1]
    ),  # on one rank two shards of a table
    "table_row_wise": lambda table, world: sharding_plan.table_row_wise(host_index=0),
    "grid": lambda table, world: sharding_plan.grid_shard(host_indexes=[0]),
    "mixed": lambda table, world: WAYS[("row_wise", "table_wise", "column_wise")[table]](table, world),
}


def sharders() -> list[Any]:
    return [EmbeddingCollectionSharder(), EmbeddingBagCollectionSharder()]


def collections_of(module: nn.Module) -> dict[str, nn.Module]:
    """Paths of what a sharder takes."""
    kinds = (EmbeddingCollection, EmbeddingBagCollection)
    return {path: part for path, part in module.named_modules() if isinstance(part, kinds)}


def plan_of(module: nn.Module, way: str) -> ShardingPlan:
    """Every table of every collection in `module` in one way of sharding."""
    world, names, plans = dist.get_world_size(), [*FEATURES], {}
    for path, collection in collections_of(module).items():
        tables: Any = (
            collection.embeddings if isinstance(collection, EmbeddingCollection) else collection.embedding_bags
        )
        sharder = sharders()[isinstance(collection, EmbeddingBagCollection)]
        shards = {name: WAYS[way](names.index(name) if name in names else 0, world) for name in tables}
        plans[path] = sharding_plan.construct_module_sharding_plan(
            collection, shards, sharder, world, world, device_type="cpu"
        )
    return ShardingPlan(plans)


def shard(module: nn.Module, way: str = "table_wise", **options: Any) -> DistributedModelParallel:
    """Row-wise Adagrad in the backward, weights as before sharding (a plain bag collection draws new ones on a CPU)."""
    tables = {name: p for name, p in module.named_parameters() if "embedding" in name}
    before = {name: table.detach().clone() for name, table in tables.items()}
    apply_optimizer_in_backward(RowWiseAdagrad, tables.values(), {"lr": 0.1})
    dmp = DistributedModelParallel(module, device=CPU, plan=plan_of(module, way), sharders=sharders(), **options)
    state = dmp.state_dict()
    for name, table in before.items():
        for piece in state[name].local_shards():
            (row, column), (height, width) = piece.metadata.shard_offsets, piece.metadata.shard_sizes
            piece.tensor.detach().copy_(table[row : row + height, column : column + width])
    return dmp


def dense_of(dmp: DistributedModelParallel) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for name, p in dmp.named_parameters() if "embedding" not in name], lr=0.1)
