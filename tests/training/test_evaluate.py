"""Evaluation of a sharded model: the metrics of every candidate, and no trace left in the model."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_rec.data.writer import write_schema, write_split
from dist_rec.training.metrics import task_metrics
from dist_rec.training.ranks import Ranks
from tests.data.requests import make_rows, make_schema, make_table
from tests.models.batches import make_batch
from tests.training.runs import evaluate_split, fresh, make_config


def test_metrics_are_those_of_the_whole_split_in_one_batch(data: Path, tmp_path: Path, alone: Ranks) -> None:
    """The split is read in batches of five requests."""
    config = make_config(data, tmp_path)
    model, _ = fresh(config, alone)
    batch = make_batch(make_rows(15, seed=2))  # what `write_dataset` wrote as the test split
    with torch.no_grad():
        _, (_, logits) = model(batch)
    group = batch.grouping_key.repeat_interleave(batch.candidates.lengths)
    got = evaluate_split(config, model, alone)
    assert list(got) == ["click", "buy"]
    assert batch.oracle is not None
    for task, metrics in enumerate(got.values()):
        expected = task_metrics(logits[:, task], batch.labels[:, task], group, batch.oracle[:, task])
        numbers, wanted = ({k: v for k, v in dataclasses.asdict(m).items() if k != "own"} for m in (metrics, expected))
        assert numbers == pytest.approx(wanted, abs=1e-6)


def test_a_conditional_task_is_judged_where_it_is_defined(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path)
    model, _ = fresh(config, alone)
    plain = evaluate_split(config, model, alone)
    candidate = {"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True, "given": {"buy": "click"}}
    given = tmp_path / "given"
    shutil.copytree(data, given)
    write_schema(given, make_schema(candidate=candidate))
    got = evaluate_split(make_config(given, tmp_path), model, alone)
    assert got["click"] == plain["click"]
    both = [pair for row in make_rows(15, seed=2) for pair in zip(row["candidate.click"], row["candidate.buy"])]
    bought = [buy for click, buy in both if click]
    assert (got["buy"].candidates, got["buy"].label_rate) == (len(bought), pytest.approx(np.mean(bought)))
    assert got["buy"].best_auc != plain["buy"].best_auc and np.isfinite(got["buy"].logloss)


def test_dropout_is_off_in_evaluation_and_on_again_afterwards(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, model={"longer": {"dropout": 0.5}})
    model, _ = fresh(config, alone)
    model.train()
    assert evaluate_split(config, model, alone) == evaluate_split(config, model, alone)
    assert all(module.training for module in model.modules())
    batch = make_batch(make_rows(3))
    assert not torch.equal(model(batch)[1][1], model(batch)[1][1]), "dropout is at work in training"


def test_the_best_reachable_auc_is_unknown_without_the_truth(tmp_path: Path, alone: Ranks) -> None:
    schema = make_schema(candidate={"ids": ["item", "kind"], "labels": ["click", "buy"]})
    write_schema(tmp_path / "data", schema)
    columns = set(make_table([], schema).column_names)
    requests = [{name: value for name, value in row.items() if name in columns} for row in make_rows(10)]
    write_split(tmp_path / "data" / "test", make_table(requests, schema), schema)
    config = make_config(tmp_path / "data", tmp_path)
    model, _ = fresh(config, alone)
    metrics = evaluate_split(config, model, alone)["click"]
    assert metrics.best_auc is None
    assert metrics.candidates == sum(len(row["candidate.item"]) for row in requests)
    assert np.isfinite(metrics.auc)
