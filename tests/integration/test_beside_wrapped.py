"""Collections that are not wrapped, on the same features or on their own, beside some that are: rows of
docs/plug-ins.md."""

import logging
import warnings
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel, get_default_sharders
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.modules.feature_processor_ import PositionWeightedModuleCollection
from torchrec.modules.fp_embedding_modules import FeatureProcessedEmbeddingBagCollection
from torchrec.modules.mc_embedding_modules import ManagedCollisionEmbeddingBagCollection
from torchrec.modules.mc_modules import (
    DistanceLFU_EvictionPolicy,
    ManagedCollisionCollection,
    MCHManagedCollisionModule,
)
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.dedup_loader import DedupLoader
from tests.helpers.ranks import run_ranks
from tests.integration.jobs import CPU, ROWS, Batch, Head, bags, batches, features, sequences, wrapped

KINDS = ("bags", "sequences", "weighted bags", "feature processor", "managed collision")
SHARDED = KINDS[:-1]  # TorchRec cannot shard managed collision on a CPU
BAG = EmbeddingBagConfig(name="s", num_embeddings=ROWS, embedding_dim=8, feature_names=["a", "b"])
ROW = EmbeddingConfig(name="s", num_embeddings=ROWS, embedding_dim=8, feature_names=["a", "b"])


def _beside(kind: str) -> Any:
    torch.manual_seed(3)
    if kind == "sequences":
        return EmbeddingCollection(tables=[ROW], device=CPU)
    weighted = kind in ("weighted bags", "feature processor")
    plain = EmbeddingBagCollection(tables=[BAG], is_weighted=weighted, device=CPU)
    if kind == "feature processor":
        return FeatureProcessedEmbeddingBagCollection(
            plain, PositionWeightedModuleCollection({"a": 6, "b": 6}, device=CPU)
        )
    if kind == "managed collision":
        policy = DistanceLFU_EvictionPolicy()
        module = MCHManagedCollisionModule(ROWS, CPU, policy, eviction_interval=1, input_hash_size=100)
        return ManagedCollisionEmbeddingBagCollection(plain, ManagedCollisionCollection({"s": module}, [BAG]))
    return plain


class _Model(nn.Module):
    """Two wrapped collections and one that is not, all over one batch."""

    def __init__(self, kind: str, dedup: str) -> None:
        super().__init__()
        self.rows, self.bags, self.beside = wrapped(sequences(), dedup), wrapped(bags(), dedup), _beside(kind)
        self.head_rows, self.head_bags, self.head_beside = Head(32), Head(40), Head(16)
        self.kind = kind

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        beside = self.beside(batch.more if self.kind == "weighted bags" else batch.features)
        beside = beside[0] if self.kind == "managed collision" else beside
        scores = self.head_rows(self.rows(batch.features)) + self.head_bags(self.bags(batch.features))
        scores = scores + self.head_beside(beside)
        loss = (scores - batch.label).square().mean()
        return loss, loss.detach()


def _batches(kind: str, dedup: str) -> Any:
    made = batches(3)
    for seed, batch in enumerate(made):
        if kind == "weighted bags":
            own = features(100 + seed, "ab")
            weights = torch.rand(len(own.values()), generator=torch.Generator().manual_seed(seed))
            batch.more = KeyedJaggedTensor(own.keys(), own.values(), weights, lengths=own.lengths())
    return DedupLoader(made) if dedup == "host" else made


def _unsharded(kind: str, dedup: str) -> list[float]:
    model = _Model(kind, dedup)
    return [float(model(batch)[1]) for batch in _batches(kind, dedup)]


@pytest.mark.parametrize("kind", KINDS)
def test_unsharded(kind: str) -> None:
    assert _unsharded(kind, "host") == _unsharded(kind, "none")


def _sharded(kind: str, dedup: str) -> list[float]:
    """TorchRec's own plan, three steps under its pipeline; tables start from values that their names decide."""
    model, sharders, world = _Model(kind, dedup), get_default_sharders(), dist.get_world_size()
    tables = [p for name, p in model.named_parameters() if "embedding" in name and "position_weight" not in name]
    apply_optimizer_in_backward(RowWiseAdagrad, tables, {"lr": 0.1})
    limits = {name: ParameterConstraints(sharding_types=["table_wise"]) for name in ("t0", "t1", "t2", "s")}
    planner = EmbeddingShardingPlanner(
        Topology(world, compute_device="cpu", local_world_size=world), constraints=limits
    )
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, device=CPU, plan=plan, sharders=sharders)
    for name, value in dmp.state_dict().items():
        for piece in value.local_shards() if hasattr(value, "local_shards") else ():
            (row, column), (height, width) = piece.metadata.shard_offsets, piece.metadata.shard_sizes
            at = (
                torch.arange(row, row + height)[:, None] * 31
                + torch.arange(column, column + width)[None] * 7
                + len(name)
            )
            piece.tensor.detach().copy_(at % 23 / 23.0 - 0.5)
    dense = torch.optim.SGD([p for name, p in dmp.named_parameters() if name.startswith("head_")], lr=0.1)
    pipeline, source, found = TrainPipelineSparseDist(dmp, dense, CPU), iter(_batches(kind, dedup)), []
    while True:
        try:
            found.append(float(pipeline.progress(source)))
        except StopIteration:
            assert len(pipeline._pipelined_modules) == (4 if dedup == "host" else 3), (
                "bags are two collections, one per width"
            )
            return found


def _every_kind() -> dict[str, tuple[list[float], list[float]]]:
    logging.disable()
    warnings.simplefilter("ignore")
    return {kind: (_sharded(kind, "host"), _sharded(kind, "none")) for kind in SHARDED}


@pytest.mark.parametrize("world_size", [1, 2])
def test_sharded_and_pipelined(world_size: int) -> None:
    for found in run_ranks(_every_kind, world_size):
        for kind, (got, expected) in found.items():
            assert len(got) == 3 and got == pytest.approx(expected, rel=1e-6), kind
