"""Lookup and rebuild of a batch of long histories, forward and backward with the fused update, beside plain TorchRec.

Legend: N events, U distinct ids, D row width.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
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

from benchmarks.dedup.streams import VOCABULARY, event_ids
from benchmarks.harness import Timing
from dist_rec.data.unique_features import UniqueFeatures
from dist_rec.embedding.dedup_collection import DedupEmbeddingCollection

PLAIN = "EmbeddingCollection"
WAYS = (PLAIN, "EmbeddingCollection, use_index_dedup", "dedup on the host", "dedup on the device")


@dataclass(frozen=True)
class Size:
    requests: int
    length: int
    width: int
    duplicates: float
    rows: int = VOCABULARY


@dataclass(frozen=True)
class Line:
    """One way on one size; bytes are those that have to move (`needed_bytes`), peak memory is beyond what stood before."""

    size: Size
    way: str
    unique: int
    time: Timing
    peak_bytes: int | None
    needed_bytes: int
    same_bits: bool


class Lookup(nn.Module):
    def __init__(self, ec: nn.Module) -> None:
        super().__init__()
        self.ec = ec

    def forward(self, features: Any) -> Tensor:
        return self.ec(features)["item"].values()


def start_ranks(device: torch.device) -> None:
    """A process group of this process alone."""
    store = Path(tempfile.mkdtemp()) / "store"
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=0, world_size=1)


def measure(size: Size, device: torch.device, *, repeats: int) -> list[Line]:
    ids = torch.from_numpy(event_ids(size.duplicates, count=size.requests * size.length) % size.rows)
    lengths = torch.full((size.requests,), size.length, dtype=torch.int32)
    features = KeyedJaggedTensor(["item"], ids, lengths=lengths)
    unique = len(ids.unique())
    given: dict[str, Any] = dict.fromkeys(WAYS, features.to(device)) | {WAYS[2]: UniqueFeatures.of(features).to(device)}
    grad = torch.randn(len(ids), size.width, device=device)
    lines: list[Line] = []
    expected: Tensor | None = None
    # FBGEMM's operator behind use_index_dedup has no CPU kernel.
    for way in (
        WAYS if device.type == "cuda" else (WAYS[0], *WAYS[2:])
    ):  # one after the other: two tables at a time could be too many
        model = _sharded(way, size, device)
        with torch.no_grad():
            out = model(given[way])
        expected = out if expected is None else expected
        same = torch.equal(out, expected)
        del out

        def step(model: nn.Module = model, way: str = way) -> None:
            # A new object each time: what features work out once and keep belongs to every step.
            model(given[way].to(device)).backward(grad)

        timing, peak = _time(step, device, repeats)
        lines.append(Line(size, way, unique, timing, peak, _needed_bytes(len(ids), unique, size.width), same))
        del model
    return lines


def _needed_bytes(events: int, unique: int, width: int) -> int:
    """Distinct rows read; events' rows written and their gradients read; distinct rows read and written for the update; an
    int32 index read twice."""
    return 4 * width * (unique + 2 * events + 2 * unique) + 2 * 4 * events


def _sharded(way: str, size: Size, device: torch.device) -> DistributedModelParallel:
    torch.manual_seed(0)
    table = EmbeddingConfig(name="t", num_embeddings=size.rows, embedding_dim=size.width, feature_names=["item"])
    collection = EmbeddingCollection(tables=[table], device=torch.device("meta"))
    # Before the plan is made, which otherwise takes a kernel without a fused optimizer.
    apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": 0.01})
    sharder = EmbeddingCollectionSharder(use_index_dedup=way == WAYS[1])
    shards = {"t": sharding_plan.table_wise(rank=0)}
    plan = sharding_plan.construct_module_sharding_plan(collection, shards, sharder, 1, 1, device_type=device.type)  # pyright: ignore[reportArgumentType]
    wrapped: nn.Module = collection
    if way in WAYS[2:]:
        wrapped = DedupEmbeddingCollection(collection, "host" if way == WAYS[2] else "device")
    place = "ec.collection" if way in WAYS[2:] else "ec"
    return DistributedModelParallel(
        Lookup(wrapped),
        device=device,
        plan=ShardingPlan({place: plan}),
        sharders=[sharder],  # pyright: ignore[reportArgumentType]
        init_data_parallel=False,
    )


def _time(step: Callable[[], None], device: torch.device, repeats: int) -> tuple[Timing, int | None]:
    """Wall clock between two synchronisations: the lookups wait for the device inside, which CUDA events would not see."""
    on_gpu = device.type == "cuda"
    for _ in range(3):
        step()
    peak = None
    if on_gpu:
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        peak = torch.cuda.max_memory_allocated() - before
    seconds = []
    for _ in range(repeats):
        if on_gpu:
            torch.cuda.synchronize()
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return Timing(*np.percentile(seconds, [20, 50, 80])), peak
