"""A run that goes on with another number of ranks, workers or another batch size: the same trajectory, or the same
data."""

import json
from pathlib import Path
from typing import Any

import pytest

from dist_rec.config import Config, ParallelConfig
from dist_rec.training.kept import newest_first
from dist_rec.training.ranks import start_ranks
from tests.helpers.ranks import run_ranks
from tests.training.runs import assert_same_weights, losses, make_config, run, saved_weights, these_ranks, write_dataset

SAVED, STEPS = 4, 8
JOBS: dict[str, dict[str, Any]] = {
    "longer": {},
    "hyformer": {"model": {"name": "hyformer", "tokens": {"width": 20}, "hyformer": {"heads": 2, "layers": 1}}},
    "rankmixer": {"model": {"interaction": "rankmixer", "rankmixer": {"width": 25}}},
}
UPDATES = ("sync", "delayed")


def _config(folder: Path, out: Path, job: str, update: str, **more: Any) -> Config:
    changes = {
        "checkpoint": {"every_steps": SAVED},
        "run": {"epochs": 4, "max_steps": STEPS},
        "data": {"batch_size": 4, "valid": [], "test": []},
        "optim": {"dense_update": update},
        "embedding": {"tables": {"item": {"sharding": ["row_wise"]}}},
    }
    return make_config(folder, out, **{**changes, **JOBS[job], **more})


def _whole(data: Path, out: Path) -> None:
    ranks = these_ranks()
    for job in JOBS:
        for update in UPDATES:
            run(_config(data, out, job, update), ranks, f"{job}-{update}")


def _go_on(data: Path, out: Path, there: Path) -> None:
    ranks = these_ranks()
    for job in JOBS:
        for update in UPDATES:
            saved = out / f"{job}-{update}" / "checkpoints" / f"step-{SAVED}"
            run(_config(data, there, job, update), ranks, f"{job}-{update}", saved)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", {"train": [8] * 9})


MANY = pytest.mark.slow


@pytest.mark.parametrize(
    ("before", "after"),
    [(2, 1), pytest.param(1, 2, marks=MANY), pytest.param(2, 4, marks=MANY), pytest.param(3, 2, marks=MANY)],
)
def test_the_trajectory_goes_on(data: Path, tmp_path: Path, before: int, after: int) -> None:
    run_ranks(_whole, before, data, tmp_path / "whole")
    run_ranks(_go_on, after, data, tmp_path / "whole", tmp_path / "on")
    for job in JOBS:
        for update in UPDATES:
            name = f"{job}-{update}"  # the log has the mean over ranks of what adds up to the loss
            whole = losses(_config(data, tmp_path / "whole", job, update), name)
            later = losses(_config(data, tmp_path / "on", job, update), name)
            assert len(whole) == STEPS and len(later) == STEPS - SAVED
            assert later == pytest.approx(whole[SAVED:], rel=1e-5), name


def test_other_reader_workers_change_no_bit(data: Path, tmp_path: Path) -> None:
    config = _config(data, tmp_path, "longer", "delayed", model={"longer": {"dropout": 0.2}})
    saved = tmp_path / "workers-2" / "checkpoints" / f"step-{SAVED}"
    with start_ranks(ParallelConfig()) as ranks:
        for workers, start in ((2, None), (0, saved), (3, saved)):
            update = {"data": config.data.model_copy(update={"workers": workers})}
            run(config.model_copy(update=update), ranks, f"workers-{workers}", start)
    whole = saved_weights(config, "workers-2")
    for workers in (0, 3):
        assert losses(config, f"workers-{workers}") == losses(config, "workers-2")[SAVED:]
        assert_same_weights(saved_weights(config, f"workers-{workers}"), whole)


def _two_batch_sizes(data: Path, out: Path) -> list[int]:
    """Requests that were trained on by the checkpoints of a run that began with 4 and went on with 6 in a batch."""
    ranks = these_ranks()
    whole = {"run": {"epochs": 2}, "checkpoint": {"every_steps": SAVED}}
    run(_config(data, out, "longer", "delayed", **whole), ranks, "small")
    later = _config(data, out, "longer", "delayed", **whole, data={"batch_size": 6, "valid": [], "test": []})
    run(later, ranks, "large", out / "small" / "checkpoints" / f"step-{SAVED}")
    found = newest_first(out / "large" / "checkpoints")
    return [json.loads((path / "manifest.json").read_text())["requests"] for path in reversed(found)]


def test_another_batch_size_goes_on_with_what_is_left(data: Path, tmp_path: Path) -> None:
    """72 requests an epoch: 4 steps of 8, then 12 in a step; 40 of the first epoch are left, which are 4 steps."""
    first, _ = run_ranks(_two_batch_sizes, 2, data, tmp_path)
    assert first[0] == 32 + 40 and first[1] == 72 + 48
