"""Evaluation of a sharded model, and `dist-rec eval`: the metrics of every candidate, and no trace left in the
model."""

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.data.writer import write_schema, write_split
from dist_rec.training.evaluate import evaluate_checkpoint, served_model, served_schema
from dist_rec.training.metrics import task_metrics
from dist_rec.training.ranks import Ranks
from tests.data.requests import make_rows, make_schema, make_table
from tests.models.batches import make_batch
from tests.training.runs import evaluate_split, fresh, make_config, run


def test_metrics_are_those_of_the_whole_split_in_one_batch(data: Path, tmp_path: Path, alone: Ranks) -> None:
    """The split is read in batches of five requests."""
    config = make_config(data, tmp_path)
    model, _ = fresh(config, alone)
    batch = make_batch(make_rows(15, seed=2))  # what `write_dataset` wrote as the test split
    with torch.no_grad():
        _, (_, logits, _) = model(batch)
    group = batch.grouping_key[batch.candidates.lengths.request]
    got = evaluate_split(config, model, alone)
    assert list(got) == ["click", "buy"]
    assert batch.oracle is not None
    for task, metrics in enumerate(got.values()):
        expected = task_metrics(logits[:, task], batch.labels[:, task], group, batch.oracle[:, task])
        assert metrics.own == metrics.strata == {}
        numbers, wanted = ({k: v for k, v in dataclasses.asdict(m).items() if v != {}} for m in (metrics, expected))
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


def test_candidates_that_a_filter_acts_on_are_told_apart(data: Path, tmp_path: Path, alone: Ranks) -> None:
    """The metrics of all are as without a filter where histories stay as they are."""
    rules = [{"reason": "bot", "field": "item", "values": list(range(20))}]
    config = make_config(data, tmp_path, data={"filter": {"rules": rules, "evaluation": "as_is"}})
    model, _ = fresh(config, alone)
    got = evaluate_split(config, model, alone)["click"]
    assert got.strata["forget"].strata == {} and list(got.strata) == ["forget", "retain"]
    items = [item for row in make_rows(15, seed=2) for item in row["candidate.item"]]
    assert got.strata["forget"].candidates == sum(item < 20 for item in items)
    assert got.strata["retain"].candidates + got.strata["forget"].candidates == got.candidates == len(items)
    schema = make_schema(hidden=True)
    batch = make_batch(make_rows(15, seed=2), schema)
    with torch.no_grad():
        _, (_, logits, _) = model(batch)
    forget = torch.tensor([item < 20 for item in items])
    group = batch.grouping_key[batch.candidates.lengths.request]
    alone_logloss = task_metrics(logits[forget, 0], batch.labels[forget, 0], group[forget], None).logloss
    assert got.strata["forget"].logloss == pytest.approx(alone_logloss, abs=1e-6)
    filtered = make_config(data, tmp_path, data={"filter": {"rules": rules}})
    assert evaluate_split(filtered, model, alone)["click"].logloss != got.logloss, "histories are filtered"


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


@pytest.fixture
def with_baselines(data: Path, tmp_path: Path) -> Path:
    """The dataset with a popularity baseline that every model beats, and that truth beats too."""
    shutil.copytree(data, tmp_path / "data")
    (tmp_path / "data" / "stats.json").write_text(json.dumps({"test": {"popularity_auc": 0.1}}))
    return tmp_path / "data"


def test_the_numbers_are_those_of_the_run(with_baselines: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(with_baselines, tmp_path)
    result = run(config, alone)
    last = tmp_path / "run" / "checkpoints" / "last"
    for split, metrics in (("test", result.test), ("valid", result.valid)):
        lines = evaluate_checkpoint(config, last, split, alone)
        assert lines[0] == f"{split} of {with_baselines}, {last}"
        for task, m in metrics.items():
            assert any(
                line.startswith(f"| {task} | {m.auc:.4f} | {m.grouped_auc:.4f} | {m.logloss:.4f} |") for line in lines
            )
    way = [line for line in evaluate_checkpoint(config, last, "test", alone) if "of the way" in line]
    assert [line.split(":")[0] for line in way] == ["click", "buy"]


def test_the_baselines_of_the_test_split_are_not_held_against_another(
    with_baselines: Path, tmp_path: Path, alone: Ranks
) -> None:
    config = make_config(with_baselines, tmp_path, run={"max_steps": 1})
    run(config, alone)
    lines = evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "last", "valid", alone)
    assert not any("of the way" in line for line in lines)


@pytest.mark.parametrize("update", ["sync", "delayed"])
def test_the_way_of_updating_does_not_matter_to_a_checkpoint(
    data: Path, tmp_path: Path, alone: Ranks, update: str
) -> None:
    config = make_config(data, tmp_path, optim={"dense_update": update}, run={"max_steps": 2})
    run(config, alone)
    last = tmp_path / "run" / "checkpoints" / "last"
    by_update = [
        evaluate_checkpoint(make_config(data, tmp_path, optim={"dense_update": name}), last, "test", alone)
        for name in ("sync", "delayed")
    ]
    assert by_update[0] == by_update[1]


@pytest.mark.parametrize(
    ("changes", "split", "message"),
    [
        ({}, "tset", "--split tset: expected one of train, valid, test"),
        ({"data": {"valid": []}}, "valid", "--split valid: expected one of train, test"),
        ({"data": {"folds": ["train", "valid", "test"]}}, "test", r"data\.folds: name the splits of one fold"),
        ({}, "test", "nothing-here: not a checkpoint"),
    ],
)
def test_what_cannot_be_evaluated_is_said(
    data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any], split: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_checkpoint(make_config(data, tmp_path, **changes), tmp_path / "nothing-here", split, alone)


def test_tables_of_a_model_that_is_only_called_have_no_optimizer_state(
    data: Path, tmp_path: Path, alone: Ranks
) -> None:
    """So a recipe with Adam, which FBGEMM has on a GPU only, is evaluated on a CPU, too."""
    config = make_config(data, tmp_path, run={"max_steps": 2})
    run(config, alone)
    last = tmp_path / "run" / "checkpoints" / "last"
    adam = make_config(data, tmp_path, embedding={"optimizer": "adam", "weight_decay": 0.0})
    assert evaluate_checkpoint(adam, last, "test", alone) == evaluate_checkpoint(config, last, "test", alone)
    _, called = served_model(served_schema(config, last), config, last, alone)
    state = called.fused_optimizer.state_dict()["state"]
    assert not any(name for of in state.values() for name in of), "plain SGD keeps nothing"
