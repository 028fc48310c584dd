"""Runs under torchrun whose ranks are killed: they end as if nothing had been."""

import json
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from torch import Tensor

from dist_rec.training.report import config_yaml
from tests.helpers.torchrun import ranks_of, start, wait_for_step
from tests.training.runs import assert_same_weights, make_config, saved_weights, write_dataset

STEPS = 60
CHANGES = {
    "run": {"epochs": 10, "eval_every": 20, "select_best": "auc"},
    "checkpoint": {"every_steps": 7, "keep_last": 2},
    "model": {"longer": {"dropout": 0.2}},
    "data": {"batch_size": 4, "workers": 1},
}


def _recipe(data: Path, out: Path, **more: object) -> Path:
    out.mkdir()
    config = make_config(data, out, **{**CHANGES, **more})
    (out / "recipe.yaml").write_text(config_yaml(config))
    return out / "recipe.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dict[str, Tensor], list[str]]]:
    """Weights at the end, and the log without what depends on time."""
    recipe = _recipe(data, tmp_path_factory.mktemp("out") / "whole")
    job = start(recipe, restarts=0)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    yield _ended(recipe)


def _ended(recipe: Path) -> tuple[dict[str, Tensor], list[str]]:
    config = make_config(Path(), recipe.parent)
    rows = map(json.loads, (recipe.parent / "tiny" / "metrics.jsonl").read_text().splitlines())
    told = [f"{row['event']} {row['step']} {row.get('task')} {row.get('loss')} {row.get('auc')}" for row in rows]
    return saved_weights(config, "tiny"), told


def _killed(data: Path, out: Path, seed: int, undisturbed: tuple[dict[str, Tensor], list[str]], first: int = 1) -> None:
    chance = random.Random(seed)
    recipe = _recipe(data, out)
    log = out / "tiny" / "metrics.jsonl"
    job = start(recipe, restarts=3, more=("--resume", "auto"))
    wait_for_step(log, chance.randrange(first, STEPS - 5), job)
    os.kill(ranks_of(job.pid)[chance.randrange(2)], signal.SIGKILL)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    weights, told = _ended(recipe)
    assert told == undisturbed[1], said
    assert_same_weights(weights, undisturbed[0])
    kept = [path.name for path in (out / "tiny" / "checkpoints").iterdir()]
    assert sorted(kept) == ["best", "last", "step-49", "step-56"]


def test_a_rank_that_is_killed_changes_nothing(
    data: Path, tmp_path: Path, undisturbed: tuple[dict[str, Tensor], list[str]]
) -> None:
    """Rank 0 or 1, after a validation that made weights the best ones."""
    _killed(data, tmp_path / "killed", 1, undisturbed, first=22)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 21))
def test_whenever_it_is_killed(
    data: Path, tmp_path: Path, seed: int, undisturbed: tuple[dict[str, Tensor], list[str]]
) -> None:
    _killed(data, tmp_path / "killed", seed, undisturbed)


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, id="SIGTERM", marks=pytest.mark.slow),
        pytest.param(signal.SIGUSR1, id="SIGUSR1", marks=pytest.mark.slow),
    ],
)
def test_a_signal_to_one_rank_saves_and_ends_all(
    data: Path, tmp_path: Path, number: signal.Signals, undisturbed: tuple[dict[str, Tensor], list[str]]
) -> None:
    recipe = _recipe(data, tmp_path / "asked")
    log = tmp_path / "asked" / "tiny" / "metrics.jsonl"
    job = start(recipe, restarts=0, more=("--resume", "auto"))
    wait_for_step(log, 10, job)
    os.kill(ranks_of(job.pid)[1], number)
    said, _ = job.communicate()
    assert job.returncode == 75, said
    assert f"resume with: --resume {tmp_path}/asked/tiny/checkpoints/step-" in said, said
    job = start(recipe, restarts=0, more=("--resume", "auto"))
    said, _ = job.communicate()
    assert job.returncode == 0, said
    weights, told = _ended(recipe)
    assert told == undisturbed[1]
    assert_same_weights(weights, undisturbed[0])
    job = start(recipe, restarts=0, more=("--resume", "auto"))
    said, _ = job.communicate()
    assert job.returncode == 0 and f"it has ended after step {STEPS}; nothing to do" in said


@pytest.mark.slow
def test_a_setting_that_changed_is_told_and_allowed_by_name(data: Path, tmp_path: Path) -> None:
    recipe = _recipe(data, tmp_path / "changed", run={"epochs": 2})
    job = start(recipe, restarts=0, ranks=1, more=("--resume", "auto"))
    assert job.wait() == 0
    (tmp_path / "changed" / "tiny" / "result.json").unlink()
    tree = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(tree | {"optim": tree["optim"] | {"lr": 0.02}}))
    job = start(recipe, restarts=0, ranks=1, more=("--resume", "auto"))
    said, _ = job.communicate()
    assert job.returncode == 2 and "- optim.lr: 0.01\n+ optim.lr: 0.02" in said and "--allow optim.lr" in said
    job = start(recipe, restarts=0, ranks=1, more=("--resume", "auto", "--allow", "optim.lr"))
    said, _ = job.communicate()
    assert job.returncode == 0, said
