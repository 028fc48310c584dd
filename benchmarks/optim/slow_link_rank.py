"""One rank of `slow_link.py`: the same model trained by every kind of update in turns, and the time of each.

Steps are timed whole, without a barrier between them: one would queue behind the all-reduce and hide it from the clock.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.optim.hybrid import HybridOptimizer

BATCH, WIDTH, LAYERS, DIM = 2048, 512, 8, 16
BUCKET_MB = 2.0
WARM_UP = 4


class Batch(Pipelineable):
    def __init__(self, dense: Tensor, ids: KeyedJaggedTensor) -> None:
        self.dense, self.ids = dense, ids

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return Batch(self.dense.to(device, non_blocking=non_blocking), self.ids.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Nothing runs on another stream: this benchmark is for CPUs."""


class Model(nn.Module):
    """A small table, looked up by the first samples of a batch, and `LAYERS` square layers: 8.4 MB of dense
    gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = EmbeddingCollection(
            tables=[EmbeddingConfig(name="t", num_embeddings=1000, embedding_dim=DIM, feature_names=["f"])],
            device=torch.device("meta"),
        )
        layers = [layer for _ in range(LAYERS - 1) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
        self.mlp = nn.Sequential(*layers, nn.Linear(WIDTH, WIDTH))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self.table(batch.ids)["f"].values()
        with_ids = torch.cat([batch.dense[: rows.shape[0], DIM:], rows], 1)
        out = self.mlp(torch.cat([with_ids, batch.dense[rows.shape[0] :]]))
        loss = (out - 1.0).square().mean()
        return loss, loss.detach()


def batches(count: int) -> Iterator[Batch]:
    """Endless; `count` samples of each have an id."""
    ids = KeyedJaggedTensor.from_lengths_sync(["f"], torch.arange(count) % 1000, torch.ones(count, dtype=torch.int64))
    while True:
        yield Batch(torch.randn(BATCH, WIDTH), ids)


def sharded(*, ddp: bool) -> DistributedModelParallel:
    model = Model()
    apply_optimizer_in_backward(RowWiseAdagrad, model.table.parameters(), {"lr": 0.01})
    wrapper = DefaultDataParallelWrapper(bucket_cap_mb=int(BUCKET_MB))
    return DistributedModelParallel(
        model, device=torch.device("cpu"), init_data_parallel=ddp, data_parallel_wrapper=wrapper
    )


def stock_optimizer(dmp: DistributedModelParallel) -> CombinedOptimizer:
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(dmp.named_parameters())), lambda p: torch.optim.AdamW(p, lr=1e-3)
    )
    return CombinedOptimizer([dmp.fused_optimizer, dense])


class Stashed(KeyedOptimizer):
    """Applies the last step's gradients and keeps this step's, as `TrainPipelineSemiSync(stash_gradients=True)` does
    for its dense part. That pipeline itself needs streams and does not run on a CPU."""

    def __init__(self, optimizer: CombinedOptimizer) -> None:
        super().__init__(optimizer.params, optimizer.state, optimizer.param_groups)
        self._optimizer, self._stash = optimizer, {}

    def zero_grad(self, set_to_none: bool = True) -> None:
        self._optimizer.zero_grad(set_to_none)

    def step(self, closure: Any = None) -> None:
        for name, parameter in self.params.items():
            if parameter.grad is None:
                continue
            mine = parameter.grad.clone()
            parameter.grad = self._stash.get(name)
            self._stash[name] = mine
        self._optimizer.step()


def hybrid(dmp: DistributedModelParallel, update: Any) -> HybridOptimizer:
    make = lambda p: torch.optim.AdamW(p, lr=1e-3)  # noqa: E731
    return HybridOptimizer(dmp, make, dense_update=update, warmup_sync_steps=0, bucket_cap_mb=BUCKET_MB)


def pipelines() -> dict[str, Any]:
    """A pipeline for every kind of update; `none` reduces no dense gradient at all."""
    device, found = torch.device("cpu"), {}
    dmp = sharded(ddp=False)
    found["none"] = TrainPipelineSparseDist(dmp, stock_optimizer(dmp), device)
    dmp = sharded(ddp=True)
    found["sync"] = TrainPipelineSparseDist(dmp, stock_optimizer(dmp), device)
    dmp = sharded(ddp=True)
    found["stash"] = TrainPipelineSparseDist(dmp, Stashed(stock_optimizer(dmp)), device)
    dmp = sharded(ddp=False)
    found["delayed"] = TrainPipelineSparseDist(dmp, hybrid(dmp, "delayed"), device)
    return found


def steps(pipeline: Any, count: int, ids: int) -> list[float]:
    """Seconds of each of `count` steps, after some that are not counted. Nothing is in flight at the end."""
    source, found = batches(ids), []
    for step in range(WARM_UP + count):
        start = time.perf_counter()
        pipeline.progress(source)
        if step >= WARM_UP:
            found.append(time.perf_counter() - start)
    if isinstance(pipeline._optimizer, HybridOptimizer):
        pipeline._optimizer.flush()
    return found


def all_reduce_alone(count: int) -> list[float]:
    """Seconds that the dense gradients need by themselves, in the same buckets."""
    total = sum(p.numel() for p in Model().mlp.parameters())
    size = int(BUCKET_MB * 1e6) // 4
    buffers = [torch.zeros(min(size, total - at)) for at in range(0, total, size)]
    found = []
    for _ in range(count):
        dist.barrier()
        start = time.perf_counter()
        works = [dist.all_reduce(buffer, async_op=True) for buffer in buffers]
        for work in works:
            assert work is not None
            work.wait()
        found.append(time.perf_counter() - start)
    return found


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--ids", type=int, required=True)
    parser.add_argument("--out", required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dist.init_process_group("gloo")
    kinds: dict[str, Callable[[], list[float]]] = {
        name: lambda pipeline=pipeline: steps(pipeline, options.steps, options.ids)
        for name, pipeline in pipelines().items()
    }
    kinds["reduce"] = lambda: all_reduce_alone(options.steps)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(options.rounds):
        for name, run in kinds.items():
            dist.barrier()
            seconds[name] += run()
    if dist.get_rank() == 0:
        with open(options.out, "w") as file:
            json.dump(seconds, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
