"""One rank and two ranks on requests with fields of every kind: the same losses, the same weights."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel

from dist_rec.config import Config
from dist_rec.data.collate import Collator
from dist_rec.data.filter.event_filter import make_filter, needs_hidden
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.plan import default_sharders, fuse_optimizer, make_plan
from dist_rec.models.build import build_model
from dist_rec.optim.hybrid import HybridOptimizer
from tests.data.kind_rows import kind_rows, kinds_schema, kinds_store, kinds_table
from tests.helpers.ranks import run_ranks
from tests.integration.test_ranks_agree import FILTER
from tests.models.batches import MODELS
from tests.training.runs import make_config

CPU = torch.device("cpu")
STEPS = 6
RUNS = [("longer", None), ("hyformer", None), ("longer", FILTER)]


def _config(model: str, event_filter: dict[str, Any] | None) -> Config:
    changes: dict[str, Any] = {"data": {"filter": event_filter, "batch_size": 8}, "model": MODELS[model]}
    return make_config(Path("unused"), Path("unused"), **changes)


def _trained(config: Config) -> tuple[list[float], dict[str, torch.Tensor]]:
    """The loss of every step, and all weights: of this rank's part of the requests, in uneven parts."""
    schema = kinds_schema(hidden=needs_hidden(config.data.filter, kinds_schema()))
    torch.manual_seed(0)
    model = build_model(schema, config, CPU)
    fuse_optimizer(model.embedding.collections, config.embedding, CPU)
    ranks = dist.get_world_size()
    plan = make_plan(model, config.embedding, CPU, ranks, batch_size=8)
    dmp = DistributedModelParallel(
        model, device=CPU, plan=plan, sharders=default_sharders(config.embedding, CPU), init_data_parallel=False
    )
    for name, piece in _pieces(dmp):
        row, column = piece.metadata.shard_offsets
        whole = torch.randn(schema.rows_of(name), 64, generator=torch.Generator().manual_seed(len(name)))
        height, width = piece.tensor.shape
        piece.tensor.detach().copy_(whole[row : row + height, column : column + width])
    optimizer = HybridOptimizer(
        dmp, lambda p: torch.optim.SGD(p, lr=0.1), dense_update="sync", warmup_sync_steps=0, group=dist.group.WORLD
    )
    rows = kind_rows(10 * STEPS)
    found = []
    for step in range(STEPS):
        these = rows[10 * step : 10 * step + 10]
        parts = [these[step % 6 :], these[: step % 6]] if ranks > 1 else [these]
        batches = [_batch(part, schema, config) for part in parts]
        total = sum(batch.num_targets[0] for batch in batches)
        mine = batches[dist.get_rank()]
        mine.set_candidates_per_rank([total / ranks])
        optimizer.zero_grad()
        loss, _ = dmp(mine.to(CPU))
        loss.backward()
        optimizer.step()
        found.append(loss.item())
    weights = {name: p.detach().clone() for name, p in dmp.module.named_parameters() if "collections" not in name}
    for name, piece in _pieces(dmp):
        weights[f"{name} from {piece.metadata.shard_offsets}"] = piece.tensor.detach().clone()
    return found, weights


def _batch(rows: list[dict[str, Any]], schema: Schema, config: Config) -> HostBatch:
    acting = make_filter(config.data.filter, schema, training=True)
    return Collator(schema, attributes=kinds_store(schema), event_filter=acting)(kinds_table(rows, schema))


def _pieces(dmp: Any) -> list[tuple[str, Any]]:
    """Name of the table and every local shard of it."""
    state = dmp.module.state_dict()
    tables = {key.split(".")[-2]: value for key, value in state.items() if key.startswith("embedding.collections.")}
    return [(name, piece) for name, value in tables.items() for piece in value.local_shards()]


def _every_run() -> list[tuple[list[float], dict[str, torch.Tensor]]]:
    return [_trained(_config(*of)) for of in RUNS]


def test_two_ranks_are_one() -> None:
    alone, pair = run_ranks(_every_run, 1)[0], run_ranks(_every_run, 2)
    for number, of in enumerate(RUNS):
        expected, dense = alone[number]
        first, second = (rank[number] for rank in pair)
        assert [(a + b) / 2 for a, b in zip(first[0], second[0])] == pytest.approx(expected, abs=1e-5), of
        shared = [name for name in dense if " from " not in name]
        assert any("attributes" in name for name in shared) and any("beside" in name for name in shared)
        for name in shared:
            assert torch.equal(first[1][name], second[1][name]), name
            torch.testing.assert_close(first[1][name], dense[name], rtol=0, atol=1e-5, msg=f"{of} {name}")
