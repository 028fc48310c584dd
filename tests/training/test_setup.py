"""What a run needs before its first step. Resuming: test_loop.py, test_selection.py, test_checkpoint.py."""

from pathlib import Path

import torch

from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.setup import Run, open_run
from tests.training.runs import make_config, quiet_console, run


def _opened(data: Path, out: Path, ranks: Ranks, resume: Path | None = None, **changes: object) -> Run:
    log = RunLog(out / "opened", is_main=ranks.is_main, console=quiet_console())
    return open_run(make_config(data, out, **changes), ranks, log, resume)


def test_a_new_run_is_at_its_start(data: Path, tmp_path: Path, alone: Ranks) -> None:
    opened = _opened(data, tmp_path, alone, run={"epochs": 2})
    assert (opened.total_steps, opened.steps_done) == (12, 0)
    assert [opened.next_validation(step) for step in (0, 5, 6)] == [6, 6, 12]
    assert not opened.selection.has_best and opened.best_folder == tmp_path / "opened" / "checkpoints" / "best"
    every = _opened(data, tmp_path, alone, run={"eval_every": 4})
    assert [every.next_validation(step) for step in (0, 3, 4)] == [4, 4, 8]


def test_the_same_seed_starts_with_the_same_weights(data: Path, tmp_path: Path, alone: Ranks) -> None:
    first, second, other = (_opened(data, tmp_path, alone, run={"seed": seed}).model.state_dict() for seed in (3, 3, 4))
    dense = [name for name in first if "ranker" in name and first[name].ndim == 2]
    assert dense and all(torch.equal(first[name], second[name]) for name in dense)
    assert not any(torch.equal(first[name], other[name]) for name in dense)


def test_a_resumed_run_is_where_it_was_saved(data: Path, tmp_path: Path, alone: Ranks) -> None:
    options = {"run": {"select_best": "auc", "eval_every": 2}, "checkpoint": {"every_steps": 2}}
    run(make_config(data, tmp_path, **options), alone)
    opened = _opened(data, tmp_path, alone, tmp_path / "run" / "checkpoints" / "step-4", **options)
    assert opened.steps_done == 4 and opened.selection.has_best and opened.best_folder.is_dir()
    assert sum(batch.num_requests for batch in opened.loader) == 48 - 4 * 8
