"""One rank of `slow_link.py`: the same model trained by every kind of update in turns, and the time of each.

The pipelines are TorchRec's own; on a CPU they run inside `without_streams`.

Steps are timed whole, without a barrier between them: one would queue behind the all-reduce and hide it from the clock.
"""

import argparse
import functools
import json
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.train_pipeline.train_pipelines import (
    TrainPipelineFusedSparseDist,
    TrainPipelineSemiSync,
    TrainPipelineSparseDist,
)
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from benchmarks.optim.rivals import Before, EarlyLookup, LateWait, Sharded, without_streams
from dist_rec.optim.ddp import outermost_ddps
from dist_rec.optim.hybrid import HybridOptimizer

BATCH, WIDTH, LAYERS, DIM, ROWS = 64, 512, 8, 16, 1000
FORWARD_S, BACKWARD_S = 0.010, 0.020  # that a layer takes, whatever the machine has to do besides
BUCKET_MB = 2.0
WARM_UP = 2
PEC = "torchrec.distributed.train_pipeline.pec_train_pipeline"  # since TorchRec 1.9


class Batch(Pipelineable):
    def __init__(self, dense: Tensor, ids: KeyedJaggedTensor) -> None:
        self.dense, self.ids = dense, ids

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return Batch(self.dense.to(device, non_blocking=non_blocking), self.ids.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        """Nothing runs on another stream: this benchmark is for CPUs."""


class _Takes(torch.autograd.Function):
    """The tensor itself, after the time that a device would compute it; and the same for its gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        time.sleep(FORWARD_S)
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        time.sleep(BACKWARD_S)
        return gradient


class Model(nn.Module):
    """A small table, looked up by the first samples of a batch, and `LAYERS` square layers: 8.4 MB of dense
    gradients.

    A layer sleeps for as long as a device would compute: as on a GPU, computing then takes no core from the network,
    and what else runs on the machine hardly changes a step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.table = EmbeddingCollection(
            tables=[EmbeddingConfig(name="t", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["f"])],
            device=torch.device("meta"),
        )
        layers = [layer for _ in range(LAYERS - 1) for layer in (nn.Linear(WIDTH, WIDTH), nn.GELU())]
        self.mlp = nn.Sequential(*layers, nn.Linear(WIDTH, WIDTH))
        for layer in self.mlp[::2]:
            layer.register_forward_hook(lambda layer, given, out: _Takes.apply(out))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        rows = self.table(batch.ids)["f"].values()
        with_ids = torch.cat([batch.dense[: rows.shape[0], DIM:], rows], 1)
        out = self.mlp(torch.cat([with_ids, batch.dense[rows.shape[0] :]]))
        loss = (out - 1.0).square().mean()
        return loss, loss.detach()


def batches(count: int) -> Iterator[Batch]:
    """Endless; `count` samples of each have an id, drawn anew: pipelines that look for ids that two batches in turn
    share find few."""
    lengths = torch.ones(count, dtype=torch.int64)
    while True:
        ids = KeyedJaggedTensor.from_lengths_sync(["f"], torch.randint(ROWS, (count,)), lengths)
        yield Batch(torch.randn(BATCH, WIDTH), ids)


def sharded(*, ddp: bool, compute_ahead: bool = False) -> DistributedModelParallel:
    """`compute_ahead`: the table as TorchRec 1.9's `TrainPipelinePEC` wants it."""
    model = Model()
    apply_optimizer_in_backward(RowWiseAdagrad, model.table.parameters(), {"lr": 0.01})
    sharders = [EmbeddingCollectionSharder()]
    if compute_ahead:
        model.table = import_module("torchrec.modules.pec_embedding_modules").PECEmbeddingCollection(model.table)
        sharders = [import_module("torchrec.distributed.pec_embedding").PECEmbeddingCollectionSharder()]
    wrapper = DefaultDataParallelWrapper(bucket_cap_mb=int(BUCKET_MB))
    return DistributedModelParallel(
        model,
        device=torch.device("cpu"),
        sharders=sharders,
        init_data_parallel=ddp,
        data_parallel_wrapper=wrapper,
    )


def stock_optimizer(dmp: DistributedModelParallel) -> CombinedOptimizer:
    dense = KeyedOptimizerWrapper(
        dict(in_backward_optimizer_filter(dmp.named_parameters())), lambda p: torch.optim.AdamW(p, lr=1e-3)
    )
    return CombinedOptimizer([dmp.fused_optimizer, dense])


def hybrid(dmp: DistributedModelParallel, update: Any) -> HybridOptimizer:
    make = lambda p: torch.optim.AdamW(p, lr=1e-3)  # noqa: E731
    return HybridOptimizer(dmp, make, dense_update=update, warmup_sync_steps=0, bucket_cap_mb=BUCKET_MB)


def zero(dmp: DistributedModelParallel) -> CombinedOptimizer:
    """Torch's ZeRO-1: each rank steps some of the parameters and broadcasts them."""
    make = lambda p: ZeroRedundancyOptimizer(  # noqa: E731
        list(p), optimizer_class=torch.optim.AdamW, parameters_as_bucket_view=True, lr=1e-3
    )
    own = dict(in_backward_optimizer_filter(dmp.named_parameters()))
    return CombinedOptimizer([dmp.fused_optimizer, KeyedOptimizerWrapper(own, make)])


def sharded_state(dmp: DistributedModelParallel, group: dist.ProcessGroup) -> Sharded:
    layers = {name: layer for name, layer in dmp.named_modules() if isinstance(layer, nn.Linear)}
    return Sharded(dmp.fused_optimizer, layers, lambda p: torch.optim.AdamW(p, lr=1e-3), group)


def waits_late(dmp: DistributedModelParallel, group: dist.ProcessGroup) -> Before:
    (ddp,) = outermost_ddps(dmp)
    return Before(stock_optimizer(dmp), LateWait(ddp, group).wait)


def pipelines() -> dict[str, Any]:
    """A pipeline for every kind of update that the installed TorchRec has; `none` reduces no dense gradient at all."""
    own = dist.new_group()  # of the dense collectives of those kinds that choose theirs
    assert isinstance(own, dist.ProcessGroup)
    semi = functools.partial(TrainPipelineSemiSync, start_batch=0)
    stash = functools.partial(semi, stash_gradients=True)
    late = functools.partial(waits_late, group=own)
    shapes: dict[str, tuple[Any, bool, Any]] = {  # pipeline, whether DDP wraps the dense part, optimizer
        "none": (TrainPipelineSparseDist, False, stock_optimizer),
        "sync": (TrainPipelineSparseDist, True, stock_optimizer),
        "late": (TrainPipelineSparseDist, True, late),
        "fused": (TrainPipelineFusedSparseDist, True, stock_optimizer),
        "fused late": (EarlyLookup, True, late),
        "zero": (TrainPipelineSparseDist, True, zero),
        "sharded": (TrainPipelineSparseDist, False, functools.partial(sharded_state, group=own)),
        "semi": (semi, True, stock_optimizer),
        "semi late": (semi, True, late),
        "stash": (stash, True, stock_optimizer),
        "delayed": (TrainPipelineSparseDist, False, functools.partial(hybrid, update="delayed")),
    }
    found = {}
    for kind, (pipeline, ddp, make) in shapes.items():
        dmp = sharded(ddp=ddp)
        found[kind] = pipeline(dmp, make(dmp), torch.device("cpu"))
    if find_spec(PEC) is not None:
        pec = import_module(PEC).TrainPipelinePEC
        for kind, make in (("pec", stock_optimizer), ("pec late", late)):
            dmp = sharded(ddp=True, compute_ahead=True)
            found[kind] = pec(dmp, make(dmp), torch.device("cpu"))
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
    if isinstance(pipeline._optimizer, Sharded):
        pipeline._optimizer.wait_for_weights()
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


def in_turns(count: int, rounds: int, ids: int) -> dict[str, list[float]]:
    """Seconds of each of `count` steps of every kind in every round, and of the all-reduce alone ("reduce")."""
    kinds: dict[str, Callable[[], list[float]]] = {
        name: lambda pipeline=pipeline: steps(pipeline, count, ids) for name, pipeline in pipelines().items()
    }
    kinds["reduce"] = lambda: all_reduce_alone(count)
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(rounds):
        for name, run in kinds.items():
            dist.barrier()
            seconds[name] += run()
    return seconds


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
    with without_streams():
        seconds = in_turns(options.steps, options.rounds, options.ids)
    if dist.get_rank() == 0:
        with open(options.out, "w") as file:
            json.dump(seconds, file)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
