"""What a run has before its first step: made from the recipe, or brought back from a checkpoint."""

import json
from pathlib import Path

import pytest
import torch

from dist_rec.common.strict import ConfigError
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.setup import Run, open_run
from tests.helpers.ranks import run_ranks
from tests.training.runs import assert_same_weights, make_config, quiet_console, run, saved_weights, these_ranks


def _open(data: Path, out: Path, ranks: Ranks, resume: Path | None = None) -> Run:
    config = make_config(data, out, checkpoint={"every_steps": 2}, run={"eval_every": 3})
    with RunLog(out / "opened", is_main=ranks.is_main, console=quiet_console()) as log:
        return open_run(config, ranks, log, resume)


def test_a_new_run_stands_at_its_beginning(data: Path, tmp_path: Path, alone: Ranks) -> None:
    opened = _open(data, tmp_path, alone)
    assert (opened.steps_done, opened.total_steps, opened.steps_per_epoch, opened.eval_every) == (0, 6, 6, 3)
    assert opened.best_folder == tmp_path / "opened" / "checkpoints" / "best"


def test_without_eval_every_a_run_validates_after_each_epoch(data: Path, tmp_path: Path, alone: Ranks) -> None:
    with RunLog(tmp_path / "opened", is_main=True, console=quiet_console()) as log:
        opened = open_run(make_config(data, tmp_path, run={"epochs": 3}), alone, log, None)
    assert (opened.eval_every, opened.total_steps) == (6, 18)


def _first_numbers(data: Path, out: Path) -> tuple[torch.Tensor, float]:
    opened = _open(data, out, these_ranks())
    dense = torch.cat([p.detach().flatten() for name, p in opened.model.named_parameters() if "ranker" in name])
    return dense, float(torch.rand(1))


def test_ranks_start_with_the_same_weights_and_drop_out_differently(data: Path, tmp_path: Path) -> None:
    (first, one), (second, other) = run_ranks(_first_numbers, 2, data, tmp_path)
    assert torch.equal(first, second) and first.numel() > 100
    assert one != other


def test_a_checkpoint_brings_everything_back(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, checkpoint={"every_steps": 2}, run={"eval_every": 3})
    run(config, alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-4"
    opened = _open(data, tmp_path, alone, checkpoint)
    assert opened.steps_done == 4
    assert opened.selection.state.valid, "the validation after step 3"
    opened.save_all(4)
    assert_same_weights(saved_weights(config, "opened", "step-4"), saved_weights(config, "run", "step-4"))
    positions = [tmp_path / name / "checkpoints/step-4/position-0-of-1.json" for name in ("opened", "run")]
    mine, theirs = (json.loads(path.read_text()) for path in positions)
    assert mine["random"] == theirs["random"] and mine["run"] == theirs["run"]


def test_a_position_that_the_loader_cannot_take_is_said(data: Path, tmp_path: Path, alone: Ranks) -> None:
    run(make_config(data, tmp_path, checkpoint={"every_steps": 2}), alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "step-4"
    path = checkpoint / "position-0-of-1.json"
    position = json.loads(path.read_text())
    position["random"] = {"cpu": [1, 2, 3]}
    path.write_text(json.dumps(position))
    with pytest.raises(ConfigError, match="the position in the data is damaged: "):
        _open(data, tmp_path, alone, checkpoint)
