"""Someone else's TorchRec job with and without deduplicated features: stock sharders, stock pipeline, one rank and
two."""

import itertools
import logging
from dataclasses import dataclass
from typing import Any, Literal
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import sharding_plan
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import PrefetchTrainPipelineSparseDist, TrainPipelineSparseDist
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig, PoolingType
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.data import unique_tokens
from dist_rec.data.dedup_loader import DedupLoader
from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding.dedup_collection import DedupEmbeddingBagCollection, DedupEmbeddingCollection
from tests.helpers.ranks import run_ranks

CPU = torch.device("cpu")
SAMPLES, ROWS, DIM, STEPS = 6, 16, 8, 3
TABLES = ("ta", "tb")
Dedup = Literal["none", "host", "device"]


@dataclass
class Batch(Pipelineable):
    """A user's own batch; its `to` knows nothing of deduplication."""

    features: Any
    label: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return Batch(
            self.features.to(device, non_blocking=non_blocking), self.label.to(device, non_blocking=non_blocking)
        )

    def record_stream(self, stream: Any) -> None:
        self.features.record_stream(stream)

    def pin_memory(self) -> "Batch":
        return Batch(self.features.pin_memory(), self.label.pin_memory())


class Tower(nn.Module):
    """Sums what the collection gives, weighted by place, into one number per sample."""

    def __init__(self, pooled: bool) -> None:
        super().__init__()
        self.pooled, self.linear = pooled, nn.Linear(DIM, 1)

    def forward(self, looked_up: Any) -> tuple[Tensor, Tensor]:
        if self.pooled:
            values = looked_up.values()
            return self.linear(values.unflatten(1, (-1, DIM)).tanh().sum(1)), values
        names = ("a", "b")
        values = torch.cat([looked_up[name].values() for name in names])
        owner = torch.cat([torch.arange(SAMPLES).repeat_interleave(looked_up[name].lengths()) for name in names])
        return self.linear(torch.zeros(SAMPLES, DIM).index_add(0, owner, values.tanh())), values


class Model(nn.Module):
    """Not ours: a collection and a tower."""

    def __init__(self, ec: nn.Module, pooled: bool) -> None:
        super().__init__()
        self.ec, self.tower = ec, Tower(pooled)

    def forward(self, batch: Batch) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        predicted, values = self.tower(self.ec(batch.features))
        loss = (predicted - batch.label).square().mean()
        return loss, (loss.detach(), values.detach())


def _collection(pooled: bool) -> EmbeddingCollection | EmbeddingBagCollection:
    torch.manual_seed(0)
    common = [
        {"name": name, "num_embeddings": ROWS, "embedding_dim": DIM, "feature_names": [key]}
        for name, key in zip(TABLES, "ab")
    ]
    if not pooled:
        return EmbeddingCollection(tables=[EmbeddingConfig(**of) for of in common], device=CPU)
    poolings = (PoolingType.SUM, PoolingType.MEAN)
    tables = [EmbeddingBagConfig(**of, pooling=pooling) for of, pooling in zip(common, poolings)]
    return EmbeddingBagCollection(tables=tables, device=CPU)


def _batches() -> list[Batch]:
    """Repetitive ids, other lengths on every rank; in the second step the last of several ranks has samples without
    ids."""
    found = []
    for step in range(STEPS):
        generator = torch.Generator().manual_seed(10 * step + dist.get_rank())
        lengths = torch.randint(0, 5, (2 * SAMPLES,), generator=generator)
        if step == 1 and 0 < dist.get_rank() == dist.get_world_size() - 1:
            lengths.zero_()
        ids = torch.randint(0, ROWS, (int(lengths.sum()),), generator=generator)
        found.append(Batch(KeyedJaggedTensor(["a", "b"], ids, lengths=lengths), torch.ones(SAMPLES, 1)))
    return found


def _sharded(
    pooled: bool, dedup: Dedup, sharding: str, optimizer: type[torch.optim.Optimizer]
) -> DistributedModelParallel:
    collection: nn.Module = _collection(pooled)
    place = "ec"
    if dedup != "none":
        where = "host" if dedup == "host" else "device"
        if isinstance(collection, EmbeddingBagCollection):
            collection, place = DedupEmbeddingBagCollection(collection, where), f"ec.collections.dim_{DIM}"
        else:
            assert isinstance(collection, EmbeddingCollection)
            collection, place = DedupEmbeddingCollection(collection, where), "ec.collection"
    torch.manual_seed(1)
    model, world = Model(collection, pooled), dist.get_world_size()
    sharders: list[Any] = [EmbeddingCollectionSharder(), EmbeddingBagCollectionSharder()]
    if sharding == "data_parallel":  # left to DDP: FBGEMM's dense CPU kernel pools although not asked to
        return DistributedModelParallel(model, device=CPU, plan=ShardingPlan({}), sharders=sharders)
    apply_optimizer_in_backward(optimizer, model.ec.parameters(), {"lr": 0.1})
    ways = {
        "row_wise": lambda _: sharding_plan.row_wise(),
        "table_wise": lambda table: sharding_plan.table_wise(rank=table % world),
        "column_wise": lambda _: sharding_plan.column_wise(ranks=[*range(world)]),
    }
    inner = model.get_submodule(place)
    sharder = sharders[isinstance(inner, EmbeddingBagCollection)]
    shards = {name: ways[sharding](table) for table, name in enumerate(TABLES)}
    of_module = sharding_plan.construct_module_sharding_plan(inner, shards, sharder, world, world, device_type="cpu")
    dmp = DistributedModelParallel(model, device=CPU, plan=ShardingPlan({place: of_module}), sharders=sharders)
    if isinstance(collection, EmbeddingBagCollection):
        _fill(dmp, collection)
    return dmp


def _fill(dmp: DistributedModelParallel, collection: EmbeddingBagCollection) -> None:
    """Weights from before sharding into a plain bag collection, which on a CPU draws new ones then."""
    state = dmp.state_dict()
    for name, table in collection.state_dict().items():
        for shard in state[f"ec.{name}"].local_shards():
            (row, column), (height, width) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
            shard.tensor.detach().copy_(table[row : row + height, column : column + width])


@dataclass
class Trained:
    first: Tensor  # what the tower saw in the first step
    losses: list[float]
    tables: dict[str, list[Tensor]]  # this rank's pieces
    names: list[str]
    pipelined: int


def _train(pooled: bool, dedup: Dedup, sharding: str, optimizer: type[torch.optim.Optimizer]) -> Trained:
    dmp = _sharded(pooled, dedup, sharding, optimizer)
    fused = sharding != "data_parallel"
    named = [*dmp.named_parameters()]
    dense = torch.optim.SGD([p for name, p in named if "tower" in name], lr=0.1)
    replicated = None if fused else optimizer([p for name, p in named if "tower" not in name], lr=0.1)  # pyright: ignore[reportCallIssue]
    batches: Any = iter(DedupLoader(_batches())) if dedup == "host" else iter(_batches())
    options = {"pipeline_postproc": True} if dedup == "device" else {}
    losses, first, pipelined = [], torch.empty(0), 0
    if fused:
        running = TrainPipelineSparseDist(dmp, dense, CPU, **options)
        while True:
            try:
                loss, values = running.progress(batches)
            except StopIteration:
                break
            first = first if losses else values
            losses.append(float(loss))
        pipelined = len(running._pipelined_modules)
    else:  # the stock pipeline needs something sharded
        assert replicated is not None
        for batch in batches:
            dense.zero_grad()
            replicated.zero_grad()
            loss, (_, values) = dmp(batch)
            loss.backward()
            dense.step()
            replicated.step()
            first = first if losses else values
            losses.append(float(loss))
    state = dmp.state_dict()
    tables = {
        name: [shard.tensor.detach().clone() for shard in table.local_shards()] if fused else [table.clone()]
        for name, table in state.items()
        if name.startswith("ec.")
    }
    return Trained(first, losses, tables, sorted(state), pipelined)


def _compare(pooled: bool, shardings: tuple[str, ...], optimizer: type[torch.optim.Optimizer]) -> list[str]:
    """What differs between a plain job and a deduplicated one, on this rank."""
    logging.disable()
    found = []
    for sharding in shardings:
        plain = _train(pooled, "none", sharding, optimizer)
        for dedup in ("host", "device"):
            got, case = _train(pooled, dedup, sharding, optimizer), f"{sharding}, {dedup}: "
            # Row-wise, the plain collection adds partial sums of the ranks, and divides them for a mean.
            tolerance = 1e-6 if pooled and sharding == "row_wise" else 0.0
            if not torch.allclose(got.first, plain.first, rtol=tolerance, atol=tolerance):
                found.append(f"{case}the first forward is off by {(got.first - plain.first).abs().max()}")
            if not torch.allclose(torch.tensor(got.losses), torch.tensor(plain.losses), rtol=1e-6, atol=1e-6):
                found.append(f"{case}losses {got.losses}, not {plain.losses}")
            if got.names != plain.names:
                found.append(f"{case}state has the names {got.names}, not {plain.names}")
            if got.pipelined != plain.pipelined:
                found.append(f"{case}{got.pipelined} modules pipelined, not {plain.pipelined}")
            for name, pieces in plain.tables.items():
                same = len(pieces) == len(got.tables[name]) and all(
                    torch.allclose(one, other, rtol=0.0, atol=1e-6) for one, other in zip(pieces, got.tables[name])
                )
                if not same:
                    found.append(f"{case}{name} differs after {STEPS} steps")
    return found


EVERY = ("row_wise", "table_wise", "column_wise", "data_parallel")


@pytest.mark.parametrize(
    ("world_size", "pooled", "optimizer"),
    [*itertools.product((1, 2), (False, True), (RowWiseAdagrad, torch.optim.SGD))],
)
def test_same_bits_forward_and_same_tables_after_three_steps(
    world_size: int, pooled: bool, optimizer: type[torch.optim.Optimizer]
) -> None:
    for complaints in run_ranks(_compare, world_size, pooled, EVERY, optimizer):
        assert not complaints, "\n".join(complaints)


def _prefetched() -> list[int]:
    """Collections that the prefetching pipeline took over. It only runs on CUDA; finding them is the same
    everywhere."""
    logging.disable()
    found = []
    for pooled, dedup in itertools.product((False, True), ("host", "device")):
        dmp = _sharded(pooled, dedup, "row_wise", RowWiseAdagrad)
        dense = torch.optim.SGD([p for name, p in dmp.named_parameters() if "tower" in name], lr=0.1)
        batches: Any = iter(DedupLoader(_batches())) if dedup == "host" else iter(_batches())
        pipeline = PrefetchTrainPipelineSparseDist(dmp, dense, CPU, pipeline_postproc=dedup == "device")
        pipeline.fill_pipeline(batches)
        found.append(len(pipeline._pipelined_modules))
    return found


def test_prefetching_pipeline_finds_the_collections() -> None:
    assert run_ranks(_prefetched, 2) == [[1, 1, 1, 1]] * 2


def _exchange_checkpoints() -> list[bool]:
    """A plain job's weights into a deduplicated one and back."""
    logging.disable()
    same = []
    for pooled in (False, True):
        plain, dedup = (_sharded(pooled, kind, "row_wise", RowWiseAdagrad) for kind in ("none", "host"))
        for source, target in ((plain, dedup), (dedup, plain)):
            for table in (table for name, table in source.state_dict().items() if name.startswith("ec.")):
                for shard in table.local_shards():
                    shard.tensor.detach().normal_()
            result = target.load_state_dict(source.state_dict())
            same.append(not result.missing_keys and not result.unexpected_keys)
            pairs = zip(source.state_dict().items(), target.state_dict().items(), strict=True)
            for (name, one), (other_name, other) in (pair for pair in pairs if pair[0][0].startswith("ec.")):
                shards = zip(one.local_shards(), other.local_shards(), strict=True)
                same.append(name == other_name and all(torch.equal(a.tensor, b.tensor) for a, b in shards))
    return same


def test_checkpoints_of_either_load_into_the_other() -> None:
    for same in run_ranks(_exchange_checkpoints, 2):
        assert len(same) == 2 * 2 * (1 + len(TABLES)) and all(same)


def _weights_kept() -> list[bool]:
    logging.disable()
    kept = []
    for pooled in (False, True):
        before = {name: table.clone() for name, table in _collection(pooled).state_dict().items()}
        after = _sharded(pooled, "host", "row_wise", RowWiseAdagrad).state_dict()
        for name, table in before.items():
            (shard,) = after[f"ec.{name}"].local_shards()
            kept.append(torch.equal(shard.tensor, table))
    return kept


def test_sharding_keeps_the_weights_of_the_wrapped_collection() -> None:
    assert run_ranks(_weights_kept, 1) == [[True] * 4]


def _compare_spread(pooled: bool, shardings: tuple[str, ...]) -> list[str]:
    with mock.patch.object(unique_tokens, "samples_of", lambda _: 3):
        return _compare(pooled, shardings, RowWiseAdagrad)


@pytest.mark.parametrize("pooled", [False, True])
def test_distinct_ids_in_several_samples(pooled: bool) -> None:
    """As on a GPU: no number differs."""
    assert run_ranks(_compare_spread, 2, pooled, ("row_wise", "table_wise", "column_wise")) == [[], []]


def test_a_rank_without_samples_takes_part() -> None:
    """Plain features without samples crash TorchRec's output; deduplicated ones are samples of length zero."""
    empty = KeyedJaggedTensor(["a"], torch.zeros(0, dtype=torch.int64), lengths=torch.zeros(0, dtype=torch.int32))
    unique = UniqueFeatures.of(empty)
    table = EmbeddingConfig(name="t", num_embeddings=4, embedding_dim=2, feature_names=["a"])
    out = DedupEmbeddingCollection(EmbeddingCollection(tables=[table], device=CPU))(unique)
    assert unique.deduplicated.stride() == 1 and out["a"].values().shape == (0, 2) and len(out["a"].lengths()) == 0
