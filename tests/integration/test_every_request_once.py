"""A model that counts what it is trained on: every request once, whenever ranks are killed and however many go on."""

import os
import random
import signal
from pathlib import Path
from typing import Any

import pytest

from dist_rec.data.writer import write_schema, write_split
from dist_rec.training.report import config_yaml
from tests.data.requests import make_schema, make_table
from tests.helpers.counting import MOST, rows_to_count, trained
from tests.helpers.torchrun import ranks_of, start, wait_for_step
from tests.training.runs import make_config, saved_weights

REQUESTS = 480
STEPS = 60
CHANGES: dict[str, Any] = {
    "model": {"name": "tests.helpers.counting:Counting", "longer": {}, "head": {"inputs": ["globals", "candidate"]}},
    "run": {"epochs": 1},
    "checkpoint": {"every_steps": 7, "keep_last": 2},
    "data": {"batch_size": 8, "workers": 1, "valid": [], "test": []},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "counted"
    schema = make_schema()
    write_schema(folder, schema)
    write_split(folder / "train", make_table(rows_to_count(REQUESTS)), schema, rows_per_group=24, rows_per_file=120)
    return folder


def _recipe(data: Path, out: Path, /, **more: Any) -> Path:
    out.mkdir(exist_ok=True)
    (out / "recipe.yaml").write_text(config_yaml(make_config(data, out, **{**CHANGES, **more})))
    return out / "recipe.yaml"


def _each_once(out: Path) -> None:
    counts = trained(saved_weights(make_config(Path(), out), "tiny"))
    assert counts == [1] * REQUESTS + [0] * (MOST * MOST - REQUESTS)


def _killed(data: Path, out: Path, ranks: int, seed: int) -> None:
    chance = random.Random(seed)
    per_rank = {"batch_size": 8 // ranks}
    job = start(_recipe(data, out, data=CHANGES["data"] | per_rank), restarts=3, ranks=ranks, more=("--resume", "auto"))
    wait_for_step(out / "tiny" / "metrics.jsonl", chance.randrange(1, STEPS - 5), job)
    os.kill(ranks_of(job.pid)[chance.randrange(ranks)], signal.SIGKILL)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    _each_once(out)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_killed_run_trains_on_every_request_once(data: Path, tmp_path: Path, ranks: int) -> None:
    _killed(data, tmp_path / "killed", ranks, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2, 21))
@pytest.mark.parametrize("ranks", [1, 2])
def test_whenever_it_is_killed(data: Path, tmp_path: Path, ranks: int, seed: int) -> None:
    _killed(data, tmp_path / "killed", ranks, seed)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_other_ranks_go_on(data: Path, tmp_path: Path, before: int, after: int) -> None:
    out = tmp_path / "moved"
    job = start(_recipe(data, out, data=CHANGES["data"] | {"batch_size": 8 // before}), restarts=0, ranks=before)
    wait_for_step(out / "tiny" / "metrics.jsonl", 20, job)
    os.kill(ranks_of(job.pid)[0], signal.SIGKILL)
    said, _ = job.communicate()
    assert job.returncode != 0, said
    recipe = _recipe(data, out, data=CHANGES["data"] | {"batch_size": 8 // after})
    job = start(recipe, restarts=0, ranks=after, more=("--resume", "auto", "--allow", "data.batch_size"))
    said, _ = job.communicate()
    assert job.returncode == 0, said
    _each_once(out)


def test_the_count_notices_a_request_that_comes_twice(data: Path, tmp_path: Path) -> None:
    """Two epochs count everything twice."""
    job = start(_recipe(data, tmp_path / "twice", run={"epochs": 2}), restarts=0, ranks=1)
    said, _ = job.communicate()
    assert job.returncode == 0, said
    assert set(trained(saved_weights(make_config(Path(), tmp_path / "twice"), "tiny"))[:REQUESTS]) == {2}
