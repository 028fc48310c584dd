"""The hybrid optimizer on a stock DistributedModelParallel under a stock pipeline, against one process without
either."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DefaultDataParallelWrapper, DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.modules.embedding_configs import EmbeddingBagConfig, EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingBagCollection, EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.optim.hybrid import HybridOptimizer
from tests.helpers.ranks import run_ranks

STEPS, ROWS, DIM, SAMPLES = 12, 20, 4, 6
WARM_UP, EVALUATED = 3, 7  # synchronous steps; the step after which the model is evaluated


@dataclass
class Batch(Pipelineable):
    ids: KeyedJaggedTensor
    target: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return Batch(self.ids.to(device, non_blocking=non_blocking), self.target.to(device, non_blocking=non_blocking))

    def record_stream(self, stream: torch.Stream) -> None:
        pass


def _batch(step: int, rank: int) -> Batch:
    """One id per sample; in step 5 rank 1 has none: samples of length zero, without a target."""
    generator = torch.Generator().manual_seed(100 * step + rank)
    lengths = (
        torch.zeros(SAMPLES, dtype=torch.int64) if (step, rank) == (5, 1) else torch.ones(SAMPLES, dtype=torch.int64)
    )
    ids = torch.randint(ROWS, (int(lengths.sum()),), generator=generator)
    target = torch.randn(len(ids), generator=generator)
    return Batch(KeyedJaggedTensor.from_lengths_sync(["f"], ids, lengths), target)


class Model(nn.Module):
    def __init__(self, device: str) -> None:
        super().__init__()
        config = EmbeddingConfig(name="t", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["f"])
        self.table = EmbeddingCollection(tables=[config], device=torch.device(device))
        torch.manual_seed(1)
        self.mlp = nn.Sequential(nn.Linear(DIM, 8), nn.GELU(), nn.Linear(8, 1))

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        score = self.mlp(self.table(batch.ids)["f"].values())[:, 0]
        # A sum over fixed sizes: ranks of different sizes then weigh as one batch would.
        loss = (score - batch.target).square().sum() / SAMPLES
        return loss, score.detach()


def _start_table() -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(3))


def _dense(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(parameters, lr=0.02)


def simulate(world_size: int) -> Tensor:
    """Embedding rows immediately, dense parameters one step delayed, on one copy of everything: the final dense
    weights."""
    model = Model("cpu")
    with torch.no_grad():
        model.table.embeddings["t"].weight.copy_(_start_table())
    table, dense = model.table.embeddings["t"].weight, list(model.mlp.parameters())
    optimizer, waiting = _dense(dense), None
    for step in range(1, STEPS + 1):
        loss = sum(model(_batch(step, rank))[0] for rank in range(world_size)) / world_size
        assert isinstance(loss, Tensor)
        table_grad, *gradients = torch.autograd.grad(loss, [table, *dense])
        with torch.no_grad():
            table -= 0.1 * table_grad
        arrived = [gradients] if step <= WARM_UP else [waiting] if waiting is not None else []
        waiting = None if step <= WARM_UP else gradients
        if step in (EVALUATED, STEPS):
            arrived, waiting = [*arrived, gradients], None
        for found in arrived:
            for p, g in zip(dense, found, strict=True):
                p.grad = g
            optimizer.step()
    return torch.cat([p.detach().flatten() for p in dense])


def trained(ddp: bool) -> Tensor:
    model = Model("meta")
    apply_optimizer_in_backward(torch.optim.SGD, model.table.parameters(), {"lr": 0.1})
    dmp = DistributedModelParallel(
        model,
        device=torch.device("cpu"),
        init_data_parallel=ddp,
        data_parallel_wrapper=DefaultDataParallelWrapper(bucket_cap_mb=1),
    )
    for name, value in dmp.state_dict().items():
        if name.endswith("table.embeddings.t.weight"):
            for shard in value.local_shards():
                first, size = shard.metadata.shard_offsets[0], shard.tensor.shape[0]
                shard.tensor.copy_(_start_table()[first : first + size])
    optimizer = HybridOptimizer(dmp, _dense, warmup_sync_steps=WARM_UP, bucket_cap_mb=1e-5)
    pipeline = TrainPipelineSparseDist(dmp, optimizer, torch.device("cpu"), execute_all_batches=True)

    def batches(first: int, last: int) -> Iterator[Batch]:
        return iter([_batch(step, dist.get_rank()) for step in range(first, last + 1)])

    for part in (batches(1, EVALUATED), batches(EVALUATED + 1, STEPS)):
        _run(pipeline, part)
        # Evaluation in mid-run; after the last part it does no harm.
        optimizer.flush()
        pipeline.detach()
        with torch.no_grad():
            dmp.eval()(_batch(99, dist.get_rank()))
        dmp.train()
        pipeline.attach()
    dense = [p.detach().flatten() for name, p in dmp.named_parameters() if ".mlp." in f".{name}"]
    assert set(optimizer.params) == {name for name, _ in dmp.named_parameters()}
    assert len(optimizer.param_groups) == 2, "the dense optimizer's and the table's"
    return torch.cat(dense)


def _run(pipeline: TrainPipelineSparseDist[Any, Any], batches: Iterator[Batch]) -> None:
    while True:
        try:
            pipeline.progress(batches)
        except StopIteration:
            return


def _both() -> dict[bool, Tensor]:
    return {ddp: trained(ddp) for ddp in (True, False)}


@pytest.mark.parametrize("world_size", [1, 2])
def test_equals_one_process_with_a_delayed_dense_update(world_size: int) -> None:
    truth = simulate(world_size)
    for rank in run_ranks(_both, world_size):
        for ddp, weights in rank.items():
            torch.testing.assert_close(weights, truth, rtol=0.0, atol=1e-6, msg=lambda m, d=ddp: f"under DDP: {d}: {m}")


def _replicated_tables() -> tuple[str, int]:
    """TorchRec's own data-parallel tables: what `delayed` says, and how many parameters `sync` trains."""
    config = EmbeddingBagConfig(name="t", num_embeddings=ROWS, embedding_dim=DIM, feature_names=["f"])
    model = nn.ModuleDict(
        {"table": EmbeddingBagCollection(tables=[config], device=torch.device("meta")), "mlp": nn.Linear(DIM, 1)}
    )
    sharders = [EmbeddingBagCollectionSharder()]
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=2, compute_device="cpu"),
        constraints={"t": ParameterConstraints(sharding_types=["data_parallel"])},
    )
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)  # pyright: ignore[reportArgumentType]
    dmp = DistributedModelParallel(model, device=torch.device("cpu"), plan=plan, sharders=sharders)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="TorchRec reduces data_parallel tables in a separate DDP") as caught:
        HybridOptimizer(dmp, _dense)
    return str(caught.value), len(HybridOptimizer(dmp, _dense, dense_update="sync").param_groups[0]["params"])


def test_replicated_tables_of_torchrec_are_refused_when_delayed() -> None:
    for refusal, trained_synchronously in run_ranks(_replicated_tables, 2):
        assert "expected dense_update='sync'" in refusal and trained_synchronously == 3
