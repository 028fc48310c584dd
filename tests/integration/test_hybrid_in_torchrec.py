"""The hybrid optimizer on a stock DistributedModelParallel under a stock pipeline, against one process without
either."""

from collections.abc import Callable, Iterator
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
from torchrec.modules import embedding_modules
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


class Replicated(nn.Module):
    """Two of TorchRec's own data-parallel tables, of different sizes, under a layer."""

    def __init__(self, device: str) -> None:
        super().__init__()
        sizes = {"t": ROWS, "u": 2 * ROWS}
        configs = [
            EmbeddingBagConfig(name=n, num_embeddings=rows, embedding_dim=DIM, feature_names=[f"f{n}"])
            for n, rows in sizes.items()
        ]
        self.table = EmbeddingBagCollection(tables=configs, device=torch.device(device))
        torch.manual_seed(1)
        self.mlp = nn.Linear(2 * DIM, 1)

    def forward(self, batch: Batch) -> Tensor:
        ids = batch.ids
        both = KeyedJaggedTensor(["ft", "fu"], ids.values().repeat(2), lengths=ids.lengths().repeat(2))
        score = self.mlp(self.table(both).values().tanh())[:, 0]
        target = torch.zeros(SAMPLES)
        target[: len(batch.target)] = batch.target
        return (score - target).square().sum() / SAMPLES


def _sharded(*, marked: bool, ddp: bool) -> DistributedModelParallel:
    model = Replicated("meta")
    if marked:
        assert mark is not None
        mark(model.table)
    sharders = [EmbeddingBagCollectionSharder()]
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=dist.get_world_size(), compute_device="cpu"),
        constraints={name: ParameterConstraints(sharding_types=["data_parallel"]) for name in "tu"},
    )
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)  # pyright: ignore[reportArgumentType]
    dmp = DistributedModelParallel(
        model,
        device=torch.device("cpu"),
        plan=plan,
        sharders=sharders,  # pyright: ignore[reportArgumentType]
        init_data_parallel=ddp,
    )
    torch.manual_seed(dist.get_rank())  # the optimizer has to make the ranks equal
    with torch.no_grad():
        for name, p in dmp.named_parameters():
            p.copy_(torch.randn(p.shape) if "table" in name else p)
    return dmp


def _unmarked() -> tuple[str, int]:
    """What `delayed` says, and how many parameters `sync` trains."""
    dmp = _sharded(marked=False, ddp=True)
    with pytest.raises(ValueError, match="TorchRec reduces data_parallel tables in a separate DDP") as caught:
        HybridOptimizer(dmp, _dense)
    return str(caught.value), len(HybridOptimizer(dmp, _dense, dense_update="sync").param_groups[0]["params"])


def test_tables_that_torchrec_reduces_are_refused_when_delayed() -> None:
    for refusal, trained_synchronously in run_ranks(_unmarked, 2):
        assert "table.embedding_bags.t.weight" in refusal and trained_synchronously == 4
        assert "mark_data_parallel_skip_grad_sync before it is sharded (TorchRec 1.9 and later)" in refusal
        assert "dense_update='sync'" in refusal


mark: Callable[[nn.Module], None] | None = getattr(embedding_modules, "mark_data_parallel_skip_grad_sync", None)
needs_mark = pytest.mark.skipif(mark is None, reason="TorchRec before 1.9 always reduces data-parallel tables itself")
REPLICATED: dict[str, dict[str, Any]] = {
    "sync": {"dense_update": "sync"},
    "delayed": {"warmup_sync_steps": WARM_UP},
    "accumulated": {"warmup_sync_steps": 0, "accumulation_steps": 2},
    "clipped by the job": {"warmup_sync_steps": 0},
    "bf16": {"warmup_sync_steps": 0, "compress": "bf16"},
}


def _train_replicated(model: nn.Module, optimizer: HybridOptimizer, case: str, ranks: list[int]) -> dict[str, Tensor]:
    """Weights after all steps on the batches of these ranks together; the job clips in one case."""
    for step in range(1, STEPS + 1):
        optimizer.zero_grad()
        losses = [model(_batch(step, rank)) for rank in ranks]
        loss = torch.stack(losses).mean()
        loss.backward()
        if case == "clipped by the job":
            nn.utils.clip_grad_norm_([p for _, p in model.named_parameters()], 0.05)
        optimizer.step()
    optimizer.flush()
    return {name.removeprefix("module."): p.detach().clone() for name, p in model.named_parameters()}


def _marked() -> dict[tuple[str, bool], tuple[dict[str, Tensor], dict[str, Tensor], bool]]:
    """Weights of two ranks with marked tables, of one model that sees the batches of both, and the state's names."""
    found = {}
    for case, options in REPLICATED.items():
        for ddp in (True, False):
            dmp = _sharded(marked=True, ddp=ddp)
            optimizer = HybridOptimizer(dmp, _dense, bucket_cap_mb=1e-4, **options)
            alone = Replicated("cpu")
            start = {name: p.detach().clone() for name, p in dmp.named_parameters()}
            alone.load_state_dict(start)
            got = _train_replicated(dmp, optimizer, case, [dist.get_rank()])
            named = set(optimizer.params) == set(start)
            optimizer.load_state_dict(optimizer.state_dict())
            truth = HybridOptimizer(alone, _dense, bucket_cap_mb=1e-4, group=_alone(), **options)
            found[case, ddp] = got, _train_replicated(alone, truth, case, [0, 1]), named
    return found


def _alone() -> dist.ProcessGroup:
    """A group of this rank only; every rank makes all of them."""
    groups = [dist.new_group([rank]) for rank in range(dist.get_world_size())]
    return groups[dist.get_rank()]  # pyright: ignore[reportReturnType]


@needs_mark
def test_marked_tables_are_trained_like_other_dense_parameters() -> None:
    ranks = run_ranks(_marked, 2)
    for case, (got, truth, named) in ranks[0].items():
        assert named and got.keys() == truth.keys(), case
        for name, value in got.items():
            assert torch.equal(value, ranks[1][case][0][name]), f"{case}: {name} differs between the ranks"
            # A bf16 gradient is rounded on each of the ranks, and AdamW follows its sign.
            atol = 0.1 if case[0] == "bf16" else 1e-5
            torch.testing.assert_close(value, truth[name], rtol=0.0, atol=atol, msg=lambda m, c=case: f"{c}: {m}")
