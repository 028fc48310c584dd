"""Training with dynamic ids: ahead of the lookup or not, ranks, state of rows that change their id, checkpoints."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_rec.common.open_ids import HIDDEN_ID
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config, ParallelConfig
from dist_rec.data.collate import collate
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_schema, write_split
from dist_rec.embedding.dynamic_ids import USES
from dist_rec.embedding.dynamic_tables import DynamicTables, dynamic_tables
from dist_rec.embedding.rows import RankRows, fresh_rows
from dist_rec.embedding.slot_map import Place
from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.training.checkpoint import load_checkpoint, save_checkpoint
from dist_rec.training.evaluate import evaluate
from dist_rec.training.pipeline import make_optimizer, make_pipeline, plan_model, run_through, shard_model
from dist_rec.training.ranks import Ranks, start_ranks
from tests.data.open_rows import open_rows, open_schema, raw_id
from tests.data.requests import make_schema, make_table
from tests.helpers.ranks import run_ranks
from tests.integration.test_ngrams import start_alike
from tests.training.runs import (
    assert_same_weights,
    evaluate_split,
    fresh,
    load,
    losses,
    make_config,
    run,
    saved_state,
    saved_weights,
    these_ranks,
)

CPU = torch.device("cpu")


@pytest.fixture
def alone() -> Iterator[Ranks]:
    with start_ranks(ParallelConfig()) as ranks:
        yield ranks


FEW, ENOUGH, REQUESTS, STEPS = 20, 600, 6, 6  # 50 items occur
ITEM = "embedding.collections.dim_8.embeddings.item.weight"


def _config(out: str | Path, **changes: Any) -> Config:
    return make_config(Path(out), Path(out), **{"optim": {"dense_update": "sync"}, **changes})


def _made(config: Config, schema: Schema, ranks: Ranks) -> tuple[nn.Module, HybridOptimizer]:
    torch.manual_seed(0)
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    start_alike(dmp)
    return dmp, make_optimizer(dmp, config.optim, STEPS, ranks)


def _batch(rows: list[dict[str, Any]], schema: Schema, ranks: Ranks) -> HostBatch:
    batch = collate(make_table(rows[ranks.rank :: ranks.world_size], schema), schema)
    batch.set_candidates_per_rank([sum(len(row["candidate.item"]) for row in rows) / ranks.world_size])
    return batch


def _batches(schema: Schema, ranks: Ranks) -> list[HostBatch]:
    return [_batch(open_rows(REQUESTS, seed=step), schema, ranks) for step in range(STEPS)]


def _step(dmp: nn.Module, optimizer: HybridOptimizer, batch: HostBatch) -> float:
    optimizer.zero_grad()
    loss, _ = dmp(batch.to(CPU))
    loss.backward()
    optimizer.step()
    return loss.item()


def _tables(dmp: nn.Module) -> DynamicTables:
    found = dynamic_tables(dmp.modules())
    assert found is not None
    return found


def _rows(dmp: nn.Module, table: str = "item") -> RankRows:
    return RankRows.of(dmp, table, init_scale=0.05, seed=0)


def _job(
    out: str, schema: Schema, piped: bool = False, tables: dict[str, Any] | None = None
) -> tuple[list[float], Tensor, list[int]]:
    """Losses, this rank's rows of items with their state, and what happened to their ids."""
    ranks, config = these_ranks(), _config(out, embedding={"tables": tables or {}})
    dmp, optimizer = _made(config, schema, ranks)
    batches = _batches(schema, ranks)
    if piped:
        pipeline = make_pipeline(dmp, optimizer, config.embedding, CPU)
        found, ahead = [], []
        for loss, _, _ in run_through(pipeline, iter(batches)):
            found.append(float(loss))
            ahead.append(_tables(dmp).steps - len(found))
        assert ahead == [1] * (STEPS - 1) + [0], "the next batch is mapped before this one is trained"
    else:
        found = [_step(dmp, optimizer, batch) for batch in batches]
    rows = _rows(dmp)
    uses = _tables(dmp).ids["item"].uses.tolist() if schema.open_ids else []
    totals = [ranks.total(loss)[0] / ranks.world_size for loss in found]
    return totals, torch.cat([rows.weight, *(state[:, None] for state in rows.states)], dim=1), uses


@pytest.mark.parametrize("policy", ["lru", "lfu"])
def test_ids_are_mapped_ahead_with_the_bits_of_one_batch_after_the_other(tmp_path: Path, policy: str) -> None:
    schema, tables = open_schema("dynamic", FEW), {"item": {"eviction": {"policy": policy}}}
    ahead = run_ranks(_job, 1, str(tmp_path), schema, True, tables)[0]
    plain = run_ranks(_job, 1, str(tmp_path), schema, False, tables)[0]
    assert ahead[0] == plain[0] and torch.equal(ahead[1], plain[1]) and ahead[2] == plain[2]
    assert ahead[2][USES.index("evicted")] > 20


def test_two_ranks_learn_what_one_learns(tmp_path: Path) -> None:
    schema = open_schema("dynamic", ENOUGH)
    (alone,) = run_ranks(_job, 1, str(tmp_path), schema, True)
    first, second = run_ranks(_job, 2, str(tmp_path), schema, True)
    torch.testing.assert_close(first[0], alone[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(torch.cat([first[1], second[1]]), alone[1], rtol=1e-5, atol=1e-5)
    assert [a + b for a, b in zip(first[2], second[2], strict=True)] == alone[2]


def _with_range(out: str) -> tuple[list[float], list[float]]:
    """Losses with dynamic ids that all find a row, and with range ids whose rows start as theirs."""
    ranks, config = these_ranks(), _config(out)
    schema = open_schema("dynamic", ENOUGH)
    dmp, optimizer = _made(config, schema, ranks)
    dynamic = [_step(dmp, optimizer, batch) for batch in _batches(schema, ranks)]
    numbered = make_schema()
    numbers = {raw_id(number): number for number in range(1000)}
    dmp, optimizer = _made(config, numbered, ranks)
    for table in ("item", "user"):
        weight = _rows(dmp, table).weight
        ids = torch.tensor([raw_id(number) for number in range(len(weight))])
        weight.copy_(fresh_rows(table, ids, 8, init_scale=0.05, seed=0))
    found = []
    for step in range(STEPS):
        rows = open_rows(REQUESTS, seed=step)
        for row in rows:
            row["user"] = numbers[row["user"]]
            row |= {n: [numbers[id_] for id_ in row[n]] for n in ("history.item", "candidate.item")}
        found.append(_step(dmp, optimizer, _batch(rows, numbered, ranks)))
    return dynamic, found


def test_ids_that_all_have_a_row_learn_as_with_a_range(tmp_path: Path) -> None:
    ((dynamic, numbered),) = run_ranks(_with_range, 1, str(tmp_path))
    torch.testing.assert_close(dynamic, numbered, rtol=1e-5, atol=1e-6)


def test_a_row_that_changes_its_id_starts_anew(tmp_path: Path, alone: Ranks) -> None:
    """Weights and optimizer state, before the first lookup of the new id; other rows keep theirs."""
    schema = open_schema("dynamic", FEW)
    dmp, optimizer = _made(_config(tmp_path), schema, alone)
    batches = _batches(schema, alone)
    for batch in batches[:-1]:
        _step(dmp, optimizer, batch)
    ids, rows = _tables(dmp).ids["item"].table, _rows(dmp)
    before = ids.ids.clone(), rows.weight.clone(), rows.states[0].clone()
    with torch.no_grad():
        dmp(batches[-1].to(CPU))
    changed = (ids.ids != before[0]).nonzero()[:, 0]
    assert (before[2][changed] > 0).sum() > 3, "rows that have learned"
    assert torch.equal(rows.weight[changed], fresh_rows("item", ids.ids[changed], 8, init_scale=0.05, seed=0))
    assert not rows.states[0][changed].any()
    same = ids.ids == before[0]
    assert torch.equal(rows.weight[same], before[1][same]) and torch.equal(rows.states[0][same], before[2][same])


def test_evaluation_takes_no_row_away(tmp_path: Path, alone: Ranks) -> None:
    schema = open_schema("dynamic", FEW)
    dmp, optimizer = _made(_config(tmp_path), schema, alone)
    batches = _batches(schema, alone)
    for batch in batches[:2]:
        _step(dmp, optimizer, batch)
    ids, rows = _tables(dmp).ids["item"], _rows(dmp)
    before = [of.clone() for of in (ids.table.ids, ids.table.seen, ids.table.count, ids.uses, rows.weight)]
    loader: Any = batches[2:]
    evaluate(dmp, loader, schema.candidate.labels, alone)
    after = (ids.table.ids, ids.table.seen, ids.table.count, ids.uses, rows.weight)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
    _step(dmp, optimizer, batches[2])
    assert ids.uses[0] > before[3][0], "and training goes on"


def _dataset(folder: Path, rows: int = FEW) -> Path:
    schema = open_schema("dynamic", rows)
    write_schema(folder, schema)
    for seed, (split, count) in enumerate({"train": 48, "valid": 12, "test": 15}.items()):
        write_split(folder / split, make_table(open_rows(count, seed), schema), schema, 8)
    return folder


TABLES = {"item": {"eviction": {"policy": "ttl", "ttl": 2}, "admission": {"count": 2}}}


def _run_config(data: Path, out: Path, **changes: Any) -> Config:
    return make_config(data, out, run={"epochs": 2}, embedding={"tables": TABLES}, **changes)


def _resumed(data: str, out: str) -> list[float]:
    """Two ranks: a whole run, and one that goes on from its fifth step, a gradient being in flight."""
    ranks, config = these_ranks(), _run_config(Path(data), Path(out), checkpoint={"every_steps": 5})
    run(config, ranks, "whole")
    ranks.barrier()
    run(config, ranks, "resumed", resume=Path(out) / "whole" / "checkpoints" / "step-5")
    return losses(config, "whole") if ranks.is_main else []


@pytest.mark.parametrize("ranks", [1, 2])
def test_resume_to_the_bit(tmp_path: Path, ranks: int) -> None:
    data = _dataset(tmp_path / "data", FEW if ranks == 1 else ENOUGH)
    whole = run_ranks(_resumed, ranks, str(data), str(tmp_path))[0]
    config = _run_config(data, tmp_path)
    assert losses(config, "resumed") == whole[5:]
    assert_same_weights(saved_weights(config, "whole"), saved_weights(config, "resumed"))
    every, again = (
        saved_state(tmp_path / name / "checkpoints" / ("step-10" if ranks == 1 else "last"))["dynamic_ids"]
        for name in ("whole", "resumed")
    )
    assert_same_weights(every, again)


def _resaved(data: str, source: str, target: str) -> None:
    ranks = these_ranks()
    model, optimizer = load(_run_config(Path(data), Path(target)), ranks, Path(source))
    save_checkpoint(Path(target), model, optimizer, ranks)


def test_one_and_two_ranks_read_each_other(tmp_path: Path) -> None:
    """Ids, their rows and the state of these move together: nothing of a checkpoint changes on its way."""
    data, out = _dataset(tmp_path / "data", ENOUGH), tmp_path / "out"
    run_ranks(_resumed, 1, str(data), str(out))
    one, two, again = out / "whole" / "checkpoints" / "step-10", tmp_path / "two", tmp_path / "again"
    run_ranks(_resaved, 2, str(data), str(one), str(two))
    run_ranks(_resaved, 1, str(data), str(two), str(again))
    states = [saved_state(folder) for folder in (one, two, again)]
    for of in states[1:]:
        assert_same_weights(of["model"], states[0]["model"])
        for one_of, state in of["optimizer"]["fused"]["state"].items():
            assert_same_weights(state, states[0]["optimizer"]["fused"]["state"][one_of])
        assert_same_weights(of["dynamic_ids"], states[0]["dynamic_ids"])
        assert of["dynamic_ids"]["steps"] == 10
    ids = states[1]["dynamic_ids"]["item.ids"]
    held = (ids != HIDDEN_ID).nonzero()[:, 0]
    assert len(held) > 20
    owners = Place(ENOUGH, 0, 2).owners(ids[held])
    assert torch.equal(owners, held // (len(ids) // 2)), "every id is with its owner"


def test_weights_alone_hold_the_ids(tmp_path: Path, alone: Ranks) -> None:
    data = _dataset(tmp_path / "data")
    config = _run_config(data, tmp_path)
    result = run(config, alone)
    last = tmp_path / "run" / "checkpoints" / "last"
    assert saved_state(last)["dynamic_ids"].keys() == {"item.ids", "user.ids"}
    served, _ = fresh(config, alone)
    load_checkpoint(last, served, None, alone)
    assert evaluate_split(config, served, alone)["click"].logloss == result.test["click"].logloss


def test_a_resumed_run_keeps_its_eviction(tmp_path: Path, alone: Ranks) -> None:
    data = _dataset(tmp_path / "data")
    config = _run_config(data, tmp_path, checkpoint={"every_steps": 5})
    run(config, alone)
    other = config.model_copy(update={"embedding": config.embedding.model_copy(update={"tables": {}})})
    with pytest.raises(ConfigError, match=r"embedding.tables.item.admission: count=2 when it was saved, count=1 now"):
        run(other, alone, "again", resume=tmp_path / "run" / "checkpoints" / "step-5")
