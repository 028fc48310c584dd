"""`dist-rec eval`: a checkpoint tested on a split."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.training.evaluate import evaluate_checkpoint
from dist_rec.training.ranks import Ranks
from tests.training.runs import make_config, run


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
            assert any(line.startswith(f"| {task} | {m.auc:.4f} | {m.grouped_auc:.4f} | {m.logloss:.4f} |") for line in lines)
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
def test_the_way_of_updating_does_not_matter_to_a_checkpoint(data: Path, tmp_path: Path, alone: Ranks, update: str) -> None:
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
