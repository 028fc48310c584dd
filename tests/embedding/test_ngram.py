"""N-gram embeddings in a job that is not ours: stock sharders, stock pipelines, one rank and two, with dedup and
without."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.ngram.features import ngram_ids
from dist_rec.embedding.dedup_collection import DedupEmbeddingCollection
from dist_rec.embedding.ngram import NgramEmbedding, NgramIds
from tests.helpers.ranks import run_ranks

CPU = torch.device("cpu")
SPEC = NgramSpec(orders=[2, 3], heads=2, rows=40)
DIM, ITEMS, SAMPLES, STEPS = 32, 12, 6, 4
Where = Literal["batch", "model", "deduplicated"]


@dataclass
class Batch(Pipelineable):
    """A user's own batch: items of some samples, and their n-grams."""

    features: KeyedJaggedTensor
    ngrams: KeyedJaggedTensor
    label: Tensor

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        return self

    def record_stream(self, stream: Any) -> None: ...

    def pin_memory(self) -> "Batch":
        return self


class Model(nn.Module):
    """Not ours: rows of items, of which the n-grams make others, and their mean per sample."""

    def __init__(self, where: Where) -> None:
        super().__init__()
        table = EmbeddingConfig(name="item", num_embeddings=ITEMS, embedding_dim=DIM, feature_names=["item"])
        self.ec = EmbeddingCollection(tables=[table], device=CPU)
        self.ngram = NgramEmbedding(SPEC, DIM, device=CPU)
        self.ids = NgramIds("item", SPEC) if where != "batch" else None
        if where == "deduplicated":
            plain: Any = self.ngram.collection
            self.ngram.collection = DedupEmbeddingCollection(plain, dedup="device")
        self.tower = nn.Linear(DIM, 1)

    def forward(self, batch: Batch) -> tuple[Tensor, Tensor]:
        found = self.ec(batch.features)["item"]
        ngrams = batch.ngrams if self.ids is None else self.ids(batch.features)
        events = self.ngram(found.values(), ngrams)
        lengths = found.lengths()
        owner = torch.repeat_interleave(torch.arange(SAMPLES // dist.get_world_size()), lengths)
        sums = torch.zeros(SAMPLES // dist.get_world_size(), DIM).index_add(0, owner, events.tanh())
        logit = self.tower(sums)[:, 0]
        loss = nn.functional.binary_cross_entropy_with_logits(logit, batch.label)
        return loss, loss.detach()


def batches() -> list[Batch]:
    """This rank's share of the samples of every step."""
    generator = torch.Generator().manual_seed(3)
    share, rank = SAMPLES // dist.get_world_size(), dist.get_rank()
    made = []
    for _ in range(STEPS):
        lengths = torch.randint(0, 7, (SAMPLES,), generator=generator)
        values = torch.randint(ITEMS, (int(lengths.sum()),), generator=generator)
        label = torch.randint(2, (SAMPLES,), generator=generator).float()
        parts, mine = values.split(lengths.tolist()), slice(rank * share, (rank + 1) * share)
        features = KeyedJaggedTensor(keys=["item"], values=torch.cat(parts[mine]), lengths=lengths[mine])
        made.append(Batch(features, ngram_ids(features, "item", SPEC), label[mine]))
    return made


def trained(where: Where) -> tuple[list[float], dict[str, Tensor]]:
    """Losses and the rank's rows of the n-gram table after each step through a stock pipeline, row-wise sharded."""
    torch.manual_seed(0)
    model, world = Model(where), dist.get_world_size()
    apply_optimizer_in_backward(RowWiseAdagrad, model.ec.parameters(), {"lr": 0.1})
    apply_optimizer_in_backward(RowWiseAdagrad, model.ngram.collection.parameters(), {"lr": 0.1})
    row_wise = ParameterConstraints(sharding_types=["row_wise"])
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=world, compute_device="cpu"), constraints={"item": row_wise, "ngram": row_wise}
    )
    sharders: Any = [EmbeddingCollectionSharder()]
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    dmp = DistributedModelParallel(model, device=CPU, plan=plan, sharders=sharders)
    dense = torch.optim.SGD([p for n, p in dmp.named_parameters() if "tower" in n or "fusion" in n], lr=0.1)
    pipeline = TrainPipelineSparseDist(dmp, dense, CPU, execute_all_batches=True, pipeline_postproc=True)
    given = iter(batches())
    losses = []
    for _ in range(STEPS):
        loss = pipeline.progress(given).clone()
        dist.all_reduce(loss)
        losses.append(float(loss) / world)
    rows = {}
    for name, value in dmp.module.state_dict().items():
        if hasattr(value, "local_shards"):
            rows[name] = torch.cat([piece.tensor.detach().clone() for piece in value.local_shards()])
    return losses, rows


@pytest.fixture(scope="module")
def alone() -> tuple[list[float], dict[str, Tensor]]:
    return run_ranks(trained, 1, "batch")[0]


@pytest.mark.parametrize("where", ["batch", "model", "deduplicated"])
def test_two_ranks_learn_what_one_learns(where: Where, alone: tuple[list[float], dict[str, Tensor]]) -> None:
    (losses, first), (also, second) = run_ranks(trained, 2, where)
    assert losses == also
    torch.testing.assert_close(losses, alone[0], rtol=1e-5, atol=1e-6)
    for name, rows in alone[1].items():
        torch.testing.assert_close(torch.cat([first[name], second[name]]), rows, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("where", ["model", "deduplicated"])
def test_the_place_of_the_hash_and_dedup_change_nothing(
    where: Where, alone: tuple[list[float], dict[str, Tensor]]
) -> None:
    losses, rows = run_ranks(trained, 1, where)[0]
    torch.testing.assert_close(losses, alone[0], rtol=1e-6, atol=1e-7)
    assert rows.keys() == alone[1].keys(), "also the names in checkpoints"


def test_n_grams_matter(alone: tuple[list[float], dict[str, Tensor]]) -> None:
    """Rows of n-grams that occur have moved, the others have not."""
    torch.manual_seed(0)
    before: Tensor = Model("batch").state_dict()["ngram.collection.embeddings.ngram.weight"]
    after = alone[1]["ngram.collection.embeddings.ngram.weight"]
    seen = torch.zeros(SPEC.total_rows, dtype=torch.bool)
    seen[run_ranks(ids_of_all_batches, 1)[0]] = True
    changed = torch.ne(before, after).any(1)
    assert bool(changed[seen].all()) and not bool(changed[~seen].any()) and bool((~seen).any())


def ids_of_all_batches() -> Tensor:
    return torch.cat([batch.ngrams.values() for batch in batches()])


def test_ids_keep_their_heads_out_of_checkpoints() -> None:
    assert not NgramIds("item", SPEC).state_dict()
