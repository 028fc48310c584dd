"""Rows back at their start: on every shard, in weights and in the state of fused optimizers."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.sharding_plan import (
    column_wise,
    construct_module_sharding_plan,
    row_wise,
    table_wise,
)
from torchrec.distributed.types import ShardingPlan
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.common.id_hash import mixed
from dist_rec.embedding.dedup_collection import DedupEmbeddingCollection
from dist_rec.embedding.rows import RankRows, fresh_rows, mixed_seed, places_of, reset_rows, table_of
from tests.helpers.ranks import run_ranks

ROWS, DIM = {"rows": 11, "columns": 7, "whole": 5}, 16
PURGED = {"rows": torch.tensor([0, 4, 10]), "columns": torch.tensor([2, 6]), "whole": torch.tensor([3])}
CPU = torch.device("cpu")


@given(seed=st.integers(0, 2**40), ids=st.lists(st.integers(0, 2**31 - 2), min_size=1, max_size=20, unique=True))
def test_a_fresh_row_depends_on_its_seed_table_id_and_column_alone(seed: int, ids: list[int]) -> None:
    found = fresh_rows("item", torch.tensor(ids), 6, init_scale=0.05, seed=seed)
    assert found.shape == (len(ids), 6) and found.dtype == torch.float32
    alone = fresh_rows("item", torch.tensor(ids[-1:]), 4, init_scale=0.05, seed=seed)
    assert torch.equal(found[-1:, :4], alone)
    assert (found >= -0.05).all() and (found < 0.05).all()
    for other in (
        fresh_rows("user", torch.tensor(ids), 6, init_scale=0.05, seed=seed),
        fresh_rows("item", torch.tensor(ids), 6, init_scale=0.05, seed=seed + 1),
        fresh_rows("item", torch.tensor(ids) + 1, 6, init_scale=0.05, seed=seed),
    ):
        assert not torch.equal(found, other)


def test_fresh_rows_are_uniform() -> None:
    values = fresh_rows("item", torch.arange(20_000), 8, init_scale=0.5, seed=3)
    assert abs(values.mean()) < 0.005 and abs(values.std() - 1 / 12**0.5) < 0.002
    assert (torch.corrcoef(values.T) - torch.eye(8)).abs().max() < 0.03, "columns are independent"
    assert abs(torch.corrcoef(torch.stack([values[:-1, 0], values[1:, 0]]))[0, 1]) < 0.03, "and so are rows"
    assert len(values.flatten().unique()) > 150_000


def test_names_of_tables() -> None:
    assert table_of("embedding.collections.dim_8.embeddings.item.weight") == "item"
    assert table_of("ec.embedding_bags.t_1.weight") == "t_1" and table_of("embedding.replicated.kind.weight") == "kind"
    for other in ("ranker.tokens.position.weight", "embeddings.item.bias", "my_embeddings.item.weight", "a.embeddings"):
        assert table_of(other) is None


def test_states_of_a_table_that_is_split_by_columns() -> None:
    # Three parts of 5 rows, of which this piece has entries 4 .. 10: rows 4, 0, 1, 2, 3, 4, 0.
    assert places_of(torch.tensor([0, 4]), 5, 4, 7).tolist() == [0, 1, 5, 6]


class _Model(nn.Module):
    def __init__(self, dedup: bool) -> None:
        super().__init__()
        configs = [
            EmbeddingConfig(name=name, num_embeddings=rows, embedding_dim=DIM, feature_names=[name])
            for name, rows in ROWS.items()
        ]
        plain = EmbeddingCollection(tables=configs, device=torch.device("meta"))
        self.ec = DedupEmbeddingCollection(plain, dedup="device") if dedup else plain

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        return torch.stack([of.values().square().sum() for of in self.ec(ids).values()]).sum()


def _sharded(dedup: bool, world_size: int) -> DistributedModelParallel:
    torch.manual_seed(0)
    model = _Model(dedup)
    apply_optimizer_in_backward(RowWiseAdagrad, model.ec.parameters(), {"lr": 0.1})
    both = list(range(world_size))
    ways = {"rows": row_wise(), "columns": column_wise(ranks=[*both, 0]), "whole": table_wise(rank=world_size - 1)}
    # A part of a table by columns is at least four wide; three parts of 16 columns do not fit, so four.
    ways["columns"] = column_wise(ranks=[both[i % world_size] for i in range(4)])
    inner: Any = model.ec.collection if dedup else model.ec
    plan = construct_module_sharding_plan(
        inner, per_param_sharding=ways, world_size=world_size, local_size=world_size, device_type="cpu"
    )
    path = "ec.collection" if dedup else "ec"
    return DistributedModelParallel(
        model, device=CPU, plan=ShardingPlan({path: plan}), sharders=[EmbeddingCollectionSharder()]
    )


def _parts(dmp: DistributedModelParallel) -> dict[str, list[tuple[tuple[int, ...], Tensor]]]:
    """This rank's shards of weights and states, with their offsets."""
    found = {name: value for name, value in dmp.state_dict().items()}
    states = dmp.fused_optimizer.state_dict()["state"]
    found |= {f"{name} {key}": value for name, state in states.items() for key, value in state.items()}
    return {
        name: [(tuple(shard.metadata.shard_offsets), shard.tensor.detach().clone()) for shard in value.local_shards()]
        for name, value in found.items()
    }


def _trained(dedup: bool) -> DistributedModelParallel:
    """Every row of every table has learned."""
    dmp = _sharded(dedup, torch.distributed.get_world_size())
    every = [torch.arange(rows) for rows in ROWS.values()]
    ids = KeyedJaggedTensor(
        keys=list(ROWS), values=torch.cat(every), lengths=torch.tensor(list(ROWS.values())), stride=1
    )
    for _ in range(2):
        dmp(ids).backward()
    return dmp


def _purge(dedup: bool) -> tuple[Any, Any]:
    dmp = _trained(dedup)
    before = _parts(dmp)
    reset_rows(dmp, PURGED, init_scale=0.25, seed=7)
    return before, _parts(dmp)


@pytest.mark.parametrize("dedup", [False, True])
@pytest.mark.parametrize("world_size", [1, 2])
def test_purged_rows_are_fresh_on_every_shard_and_the_others_untouched(world_size: int, dedup: bool) -> None:
    seen = {name: torch.zeros(rows, DIM) for name, rows in ROWS.items()}
    with_state = 0
    for before, after in run_ranks(_purge, world_size, dedup):
        for name, pieces in after.items():
            table = name.split(" ")[0].split(".")[-2]
            rows, fresh = ROWS[table], fresh_rows(table, PURGED[table], DIM, init_scale=0.25, seed=7)
            for (offset, piece), (_, old) in zip(pieces, before[name], strict=True):
                at = (torch.arange(len(piece)) + offset[0]) % rows
                purged = torch.isin(at, PURGED[table])
                assert torch.equal(piece[~purged], old[~purged]), f"{name} at {offset}: another row changed"
                if piece.ndim == 1:
                    assert (old != 0).all() and (piece[purged] == 0).all(), f"{name} at {offset}"
                    with_state += int(purged.sum())
                    continue
                columns = slice(offset[1], offset[1] + piece.shape[1])
                wanted = torch.zeros(rows, piece.shape[1])
                wanted[PURGED[table]] = fresh[:, columns]
                assert torch.equal(piece[purged], wanted[at[purged]]), f"{name} at {offset}"
                seen[table][at, columns] += 1
    assert all((count == 1).all() for count in seen.values()), "every number of every table was looked at once"
    assert with_state == 3 + 4 * 2 + 1, "rows, the four parts by columns, and the whole table"


@pytest.mark.parametrize(
    ("ids", "told"),
    [
        (
            {"other": torch.tensor([0])},
            "table other: the model has no such table; expected one of columns, rows, whole",
        ),
        ({"rows": torch.tensor([3, 11])}, "table rows: expected ids from 0 to 10, got 11"),
        ({"rows": torch.tensor([-1])}, "got -1"),
    ],
)
def test_wrong_rows_are_refused_before_anything_changes(ids: dict[str, Tensor], told: str) -> None:
    tables = [EmbeddingConfig(name=n, num_embeddings=r, embedding_dim=4, feature_names=[n]) for n, r in ROWS.items()]
    model = nn.ModuleDict({"ec": EmbeddingCollection(tables=tables)})
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=told):
        reset_rows(model, {"whole": torch.tensor([1])} | ids, init_scale=0.1, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_an_unsharded_collection_is_reset_too() -> None:
    tables = [EmbeddingConfig(name="item", num_embeddings=6, embedding_dim=4, feature_names=["item"])]
    model = nn.ModuleDict({"ec": EmbeddingCollection(tables=tables)})
    reset_rows(model, {"item": torch.tensor([1, 5])}, init_scale=0.1, seed=0)
    weight = model.state_dict()["ec.embeddings.item.weight"]
    assert torch.equal(weight[[1, 5]], fresh_rows("item", torch.tensor([1, 5]), 4, init_scale=0.1, seed=0))


def test_the_hash_is_that_of_numpy() -> None:
    ids = torch.tensor([0, -1, 2**63 - 1, -(2**63), 1234567])
    assert mixed_seed(ids).tolist() == mixed(ids.numpy()).astype("int64").tolist()


def _reset_here() -> None:
    """Rows 2 and 0 of this rank get the rows of other ids; all others, and those of other tables, stay."""
    dmp = _trained(False)
    before = _parts(dmp)
    rows, ids = RankRows.of(dmp, "rows", init_scale=0.25, seed=7), torch.tensor([-5, 2**62])
    rows.reset(torch.tensor([2, 0]), ids)
    fresh = fresh_rows("rows", ids, DIM, init_scale=0.25, seed=7)
    for name, pieces in _parts(dmp).items():
        for (_, piece), (_, old) in zip(pieces, before[name], strict=True):
            if ".rows." in name:
                assert torch.equal(piece[[2, 0]], torch.zeros(2) if piece.ndim == 1 else fresh), name
                piece[[2, 0]] = old[[2, 0]]
            assert torch.equal(piece, old), name
    with pytest.raises(ValueError, match=r"table columns: expected one part of it on this rank, got [24]"):
        RankRows.of(dmp, "columns", init_scale=0.25, seed=7)


@pytest.mark.parametrize("world_size", [1, 2])
def test_rows_of_a_rank(world_size: int) -> None:
    run_ranks(_reset_here, world_size)
