"""Sizes of the lookup benchmark, and the five ways to look a batch of long histories up, each sharded by stock
TorchRec.

Legend: B requests, L events of a request, N = B L events, U distinct ids, D row width.
"""

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed import sharding_plan
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from benchmarks.dedup.streams import LENGTH, REQUESTS, VOCABULARY, event_ids
from benchmarks.harness import Absent
from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding.dedup_collection import DedupEmbeddingCollection

Sharding = Literal["row_wise", "table_wise"]


@dataclass(frozen=True)
class Size:
    """`duplicates`: share of the events whose id occurred before."""

    sharding: Sharding
    width: int
    duplicates: float
    requests: int = REQUESTS
    length: int = LENGTH
    rows: int = VOCABULARY

    @property
    def name(self) -> str:
        return f"{self.sharding}-{self.width}-{self.duplicates:.0%}"

    @property
    def events(self) -> int:
        return self.requests * self.length


# 75 % first: a run that is cut off has measured what the goal is about.
DUPLICATES = (0.75, 0.25, 0.5, 0.9)
_SHARDINGS: tuple[Sharding, ...] = ("row_wise", "table_wise")
SIZES = [Size(sharding, width, share) for share in DUPLICATES for width in (64, 128) for sharding in _SHARDINGS]
TOY = [
    Size(sharding, 8, share, requests=6, length=20, rows=100_000) for share in (0.75, 0.25) for sharding in _SHARDINGS
]

PLAIN = "EmbeddingCollection"
INDEX_DEDUP = "EmbeddingCollection, use_index_dedup"
SORTED = "EmbeddingCollection, use_index_dedup, sorted select"  # its backward sorts where the other adds by atomics
HOST = "DedupEmbeddingCollection, host"
DEVICE = "DedupEmbeddingCollection, device"
WAYS = (PLAIN, INDEX_DEDUP, SORTED, HOST, DEVICE)


class Lookup(nn.Module):
    """A collection, and nothing of a model: features to the (N, D) rows of their events."""

    def __init__(self, ec: nn.Module) -> None:
        super().__init__()
        self.ec = ec

    def forward(self, features: Any) -> Tensor:
        return self.ec(features)["item"].values()


def start_group(device: torch.device) -> None:
    """A process group of this process alone."""
    backend, store = "nccl" if device.type == "cuda" else "gloo", Path(tempfile.mkdtemp()) / "store"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)


def make_streams(sizes: list[Size], shape: str) -> dict[float, Tensor]:
    """Ids (N,) by share of duplicates. A zipf takes seconds to fit; numpy works side by side in threads."""
    of_share = {size.duplicates: size for size in sizes}
    with ThreadPoolExecutor(len(of_share)) as pool:
        ids = pool.map(lambda size: event_ids(size.duplicates, shape, size.events) % size.rows, of_share.values())
        return dict(zip(of_share, map(torch.from_numpy, ids)))


def features_of(ids: Tensor, size: Size) -> KeyedJaggedTensor:
    lengths = torch.full((size.requests,), size.length, dtype=torch.int32)
    return KeyedJaggedTensor(["item"], ids, lengths=lengths)


def make_step(way: str, size: Size, features: KeyedJaggedTensor, device: torch.device) -> Callable[[], Tensor]:
    """A callable that looks everything up once, with a graph; tables begin the same in every way.

    Features are on the device beforehand, for `HOST` deduplicated. Every call gets an object of its own around the same
    memory: what such objects work out once and keep is part of a training step.

    Raises Absent for a way that the installed TorchRec does not have.
    """
    model = _sharded(way, size, device)
    given: Any = (UniqueFeatures.of(features) if way == HOST else features).to(device)
    return lambda: model(given.to(device))


def _sharded(way: str, size: Size, device: torch.device) -> DistributedModelParallel:
    torch.manual_seed(0)
    table = EmbeddingConfig(name="t", num_embeddings=size.rows, embedding_dim=size.width, feature_names=["item"])
    collection = EmbeddingCollection(tables=[table], device=torch.device("meta"))
    if way == SORTED:
        _select_sorted(collection)
    # Before the plan is made, which otherwise takes a kernel without a fused optimizer.
    apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": 0.01})
    sharders: list[Any] = [EmbeddingCollectionSharder(use_index_dedup=way in (INDEX_DEDUP, SORTED))]
    shards = {"t": sharding_plan.row_wise() if size.sharding == "row_wise" else sharding_plan.table_wise(rank=0)}
    plan = sharding_plan.construct_module_sharding_plan(collection, shards, sharders[0], 1, 1, device_type=device.type)
    wrapped: nn.Module = collection
    if way in (HOST, DEVICE):
        wrapped = DedupEmbeddingCollection(collection, "host" if way == HOST else "device")
    place = "ec" if wrapped is collection else "ec.collection"
    return DistributedModelParallel(
        Lookup(wrapped), device=device, plan=ShardingPlan({place: plan}), sharders=sharders, init_data_parallel=False
    )


def _select_sorted(collection: Any) -> None:
    if not hasattr(collection, "set_use_sorted_select"):
        raise Absent(f"needs TorchRec 1.9 (set_use_sorted_select), here is {version('torchrec')}")
    collection.set_use_sorted_select(True)
