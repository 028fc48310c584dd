"""Sharding by recipe, the share of a step, and a pipeline that is empty when it is said to be."""

from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.parallel import DistributedDataParallel
from torchrec.distributed.train_pipeline import (
    PrefetchTrainPipelineSparseDist,
    TrainPipelineSparseDist,
    train_pipelines,
)

from dist_rec.config import EmbeddingConfig, TableConfig
from dist_rec.data.collate import collate
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.reader import make_loader
from dist_rec.data.schema_file import load_schema
from dist_rec.data.targets import Targets
from dist_rec.training.pipeline import CountedBatches, make_pipeline, run_through
from dist_rec.training.ranks import Ranks
from dist_rec.training.splits import open_split
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.later import later_rows, later_schema
from tests.data.requests import make_rows, make_schema, make_table
from tests.helpers.ranks import run_ranks
from tests.models.batches import make_batch
from tests.training.runs import fresh, make_config, these_ranks

CANDIDATES = [[3, 0, 2], [5, 0, 0]]  # per rank and step


def _rows_with(candidates: int) -> list[dict[str, Any]]:
    row = next(row for row in make_rows(50) if len(row["candidate.item"]) == 1)
    return [row] * candidates


def _shares() -> tuple[list[float], list[int]]:
    ranks = these_ranks()
    loader: Any = [collate(make_table(_rows_with(count)), make_schema()) for count in CANDIDATES[ranks.rank]]
    counted = CountedBatches(loader, ranks)
    shares = [float(batch.tensors["candidates_per_rank"]) for batch in counted]
    return shares, [counted.trained().candidates for _ in shares]


def test_the_share_is_that_of_an_average_rank() -> None:
    for mine, (shares, trained) in zip(CANDIDATES, run_ranks(_shares, 2), strict=True):
        assert shares == [4.0, 0.0, 1.0]
        assert trained == mine, "sizes come back in the order of the steps"


def _shares_of_updates() -> list[float]:
    """Of two batches each; the last one has one."""
    ranks = these_ranks()
    loader: Any = [collate(make_table(_rows_with(count)), make_schema()) for count in CANDIDATES[ranks.rank]]
    return [float(batch.tensors["candidates_per_rank"]) for batch in CountedBatches(loader, ranks, per_update=2)]


def test_batches_of_an_update_share_its_candidates() -> None:
    for shares in run_ranks(_shares_of_updates, 2):
        assert shares == [2.0, 2.0, 1.0]


def test_candidates_that_are_not_trained_are_not_counted(alone: Ranks) -> None:
    schema = make_schema(hidden=True)
    acting = filter_by_item(schema, all_items("mask"))
    batch = collate(make_table(make_rows(12)), schema, event_filter=acting)
    loader: Any = [batch]
    counted = CountedBatches(loader, alone)
    assert float(next(counted).tensors["candidates_per_rank"]) == batch.num_targets[0] < batch.num_candidates
    size = counted.trained()
    assert size.filtered == batch.filtered and size.filtered["mask"] > 0


# Rows of every batch by rank: unlike ones, an empty one, and with two batches to an update one that is left over.
LATER_ROWS = [[3, 0, 2], [5, 1, 0]]
LATER = Targets(now=1_150, distilled="labelled")


def _later_batches(rank: int) -> list[HostBatch]:
    schema = later_schema()
    rows = [later_rows(count, seed=10 * rank + step) for step, count in enumerate(LATER_ROWS[rank])]
    return [collate(make_table(of, schema), schema, targets=LATER) for of in rows]


def _shares_by_task(per_update: int) -> list[list[float]]:
    ranks = these_ranks()
    loader: Any = _later_batches(ranks.rank)
    return [batch.tensors["candidates_per_rank"].tolist() for batch in CountedBatches(loader, ranks, per_update)]


@pytest.mark.parametrize("per_update", [1, 2])
def test_every_task_has_the_mean_of_its_own_numbers(per_update: int) -> None:
    """Over both ranks and the batches of an update."""
    by_rank = [_later_batches(rank) for rank in range(2)]
    expected: list[list[float]] = []
    for first in range(0, 3, per_update):
        update = [batch for of in by_rank for batch in of[first : first + per_update]]
        means = [sum(numbers) / len(update) for numbers in zip(*(batch.num_targets for batch in update), strict=True)]
        expected += [means] * (len(update) // 2)
    assert len(set(expected[0])) > 1, "the tasks differ"
    for shares in run_ranks(_shares_by_task, 2, per_update):
        for got, means in zip(shares, expected, strict=True):
            assert got == pytest.approx(means)


def _counted(data: Path, out: Path, ranks: Ranks) -> CountedBatches:
    config = make_config(data, out)
    reader = open_split(config, load_schema(data), ranks, config.data.train, train=True)
    return CountedBatches(make_loader(reader, 0), ranks)


def test_sizes_are_what_the_batch_holds(data: Path, tmp_path: Path, alone: Ranks) -> None:
    counted = _counted(data, tmp_path, alone)
    for batch in counted:
        size = counted.trained()
        assert (size.requests, size.candidates, size.events) == (
            batch.num_requests,
            batch.num_candidates,
            batch.num_events,
        )
        assert (size.nbytes, size.plain_bytes) == (batch.nbytes, batch.plain_bytes) and size.waited > 0.0
        assert float(batch.tensors["candidates_per_rank"]) == batch.num_candidates


def _prefetch_without_streams(context: Any, modules: Any, *_: Any) -> None:
    """What `prefetch_embeddings` does for a table without a cache; TorchRec's own does nothing without a GPU."""
    for module in modules:
        forward = module.forward
        context.module_input_post_prefetch[forward._name] = context.input_dist_tensors_requests.pop(
            forward._name
        ).wait()
        context.module_contexts_post_prefetch[forward._name] = context.module_contexts.pop(forward._name)


def test_the_pipeline_that_prefetches_goes_on_after_a_stop(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train_pipelines, "prefetch_embeddings", _prefetch_without_streams)
    model, optimizer = fresh(make_config(data, tmp_path), alone)
    pipeline = PrefetchTrainPipelineSparseDist(model, optimizer, alone.device)
    counted = _counted(data, tmp_path, alone)
    for steps in (3, 2):
        assert len(list(run_through(pipeline, islice(counted, steps)))) == steps
        with torch.no_grad():
            loss, _ = model(make_batch(make_rows(3)))
        assert torch.isfinite(loss)
    assert optimizer.steps == 5


def test_nothing_is_in_flight_after_a_run_through(data: Path, tmp_path: Path, alone: Ranks) -> None:
    model, optimizer = fresh(make_config(data, tmp_path), alone)
    pipeline = TrainPipelineSparseDist(model, optimizer, alone.device)
    counted = _counted(data, tmp_path, alone)
    for steps in (3, 1, 2):
        before = optimizer.steps
        outputs = list(run_through(pipeline, islice(counted, steps)))
        assert len(outputs) == optimizer.steps - before == steps
        assert len(pipeline.batches) == 0
        assert len([counted.trained() for _ in outputs]) == steps, "no batch was fetched beyond the stop"
        with pytest.raises(IndexError):
            counted.trained()
        with torch.no_grad():
            loss, _ = model(make_batch(make_rows(3)))
        assert torch.isfinite(loss)
    assert list(run_through(pipeline, counted)) == [], "the epoch has six steps"


@pytest.mark.parametrize(("update", "wrapped"), [("sync", True), ("delayed", False)])
def test_only_synchronous_updates_use_ddp(data: Path, tmp_path: Path, alone: Ranks, update: str, wrapped: bool) -> None:
    model, _ = fresh(make_config(data, tmp_path, optim={"dense_update": update}), alone)
    assert any(isinstance(child, DistributedDataParallel) for child in model.children()) == wrapped


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"optimizer": "adamw", "betas": [0.8, 0.9]}, {"betas": (0.8, 0.9), "weight_decay": 0.01}),
        ({"optimizer": "adam", "weight_decay": 0.0}, {"betas": (0.9, 0.999), "weight_decay": 0.0}),
        ({"optimizer": "adagrad", "weight_decay": 0.1}, {"weight_decay": 0.1, "lr_decay": 0}),
        ({"optimizer": "sgd", "momentum": 0.9, "weight_decay": 0.1}, {"momentum": 0.9, "weight_decay": 0.1}),
    ],
)
def test_the_recipe_chooses_the_dense_optimizer(
    data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any], expected: dict[str, Any]
) -> None:
    model, optimizer = fresh(make_config(data, tmp_path, optim=changes), alone)
    group, *tables = optimizer.param_groups
    assert {name: group[name] for name in expected} == expected
    assert group["lr"] == 0.01
    dense = {id(p) for p in group["params"]}
    assert {id(p) for name, p in model.named_parameters() if "ranker" in name} == dense and tables, (
        "they have their own optimizer"
    )


def test_muon_takes_the_matrices(data: Path, tmp_path: Path, alone: Ranks) -> None:
    model, optimizer = fresh(make_config(data, tmp_path, optim={"optimizer": "muon", "weight_decay": 0.0}), alone)
    muon, adamw, *_ = optimizer.param_groups
    assert all(p.ndim == 2 for p in muon["params"]) and all(p.ndim != 2 for p in adamw["params"])
    assert (
        muon["adjust_lr_fn"] == "match_rms_adamw"
        and adamw["betas"] == (0.9, 0.999)
        and muon["lr"] == adamw["lr"] == 0.01
    )
    dense = [p for name, p in model.named_parameters() if "ranker" in name]
    assert len(dense) == len(muon["params"]) + len(adamw["params"])


def test_tables_in_host_memory_get_the_prefetching_pipeline(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path)
    cached = EmbeddingConfig(tables={"item": TableConfig(kernel=["fused_uvm_caching"])})
    model, optimizer = fresh(config, alone)
    assert type(make_pipeline(model, optimizer, cached, alone.device)) is TrainPipelineSparseDist, (
        "nothing to cache on a CPU"
    )
    assert type(make_pipeline(model, optimizer, config.embedding, alone.device)) is TrainPipelineSparseDist
