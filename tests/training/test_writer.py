"""Checkpoints that are written while training goes on are those that are written at once."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_rec.training import writer
from dist_rec.training.checkpoint import BEST, Content, state_to_save
from dist_rec.training.ranks import Ranks
from dist_rec.training.writer import CheckpointWriter
from tests.helpers.ranks import run_ranks
from tests.training.runs import (
    assert_same_weights,
    fresh,
    losses,
    make_config,
    run,
    saved_state,
    saved_weights,
    these_ranks,
)

BOTH = {"checkpoint": {"every_steps": 1, "keep_last": 2}, "run": {"select_best": "auc", "eval_every": 2, "epochs": 2}}


def _two_ways(data: Path, out: Path) -> None:
    ranks = these_ranks()
    for name, asynchronous in (("at-once", False), ("beside", True)):
        config = make_config(data, out, **{**BOTH, "checkpoint": BOTH["checkpoint"] | {"asynchronous": asynchronous}})
        run(config, ranks, name)


def test_writing_beside_training_changes_nothing(data: Path, tmp_path: Path) -> None:
    run_ranks(_two_ways, 2, data, tmp_path)
    config = make_config(data, tmp_path)
    assert losses(config, "beside") == losses(config, "at-once")
    for name in ("step-5", "step-6", f"step-6/{BEST}", "last"):
        both = (saved_weights(config, of, name) for of in ("beside", "at-once"))
        assert_same_weights(*both)
    names = sorted(path.name for path in (tmp_path / "beside" / "checkpoints").iterdir())
    assert names == [BEST, "last", "step-5", "step-6"]


def test_what_is_written_is_what_was_there_when_it_was_saved(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that change while the thread waits are not those of the checkpoint."""
    config = make_config(data, tmp_path, checkpoint={"asynchronous": True})
    model, optimizer = fresh(config, alone)
    before = {name: of.clone() for name, of in model.named_parameters()}
    go, write = threading.Event(), writer.write_checkpoint

    def later(*arguments: Any) -> None:
        assert go.wait(60)
        write(*arguments)

    monkeypatch.setattr(writer, "write_checkpoint", later)
    saving = CheckpointWriter(alone, config.checkpoint)
    saving.write(tmp_path / "saved", Content(state_to_save(model, optimizer)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    assert not (tmp_path / "saved").exists()
    go.set()
    saving.wait()
    saved = saved_state(tmp_path / "saved")["model"]
    dense = [name for name in before if name in saved and isinstance(saved[name], torch.Tensor)]
    assert dense and all(torch.equal(saved[name].reshape(before[name].shape), before[name]) for name in dense)
    saving.close()


def test_a_checkpoint_keeps_what_it_was_when_the_next_is_copied(data: Path, tmp_path: Path, alone: Ranks) -> None:
    """The copies of both share their memory."""
    config = make_config(data, tmp_path, checkpoint={"asynchronous": True})
    model, optimizer = fresh(config, alone)
    at_once = CheckpointWriter(alone, config.checkpoint.model_copy(update={"asynchronous": False}))
    beside = CheckpointWriter(alone, config.checkpoint)
    for number in range(3):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(1.0)
        for name, of in (("at-once", at_once), ("beside", beside)):
            of.write(tmp_path / f"{name}-{number}", Content(state_to_save(model, optimizer)))
    beside.close()
    for number in range(3):
        both = (saved_state(tmp_path / f"{name}-{number}")["model"] for name in ("beside", "at-once"))
        assert_same_weights(*both)


def test_what_went_wrong_is_said_at_the_next_one(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(data, tmp_path, checkpoint={"asynchronous": True})
    model, _ = fresh(config, alone)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device", "there")

    monkeypatch.setattr(writer, "write_checkpoint", full)
    saving = CheckpointWriter(alone, config.checkpoint)
    content = Content(state_to_save(model, None))
    saving.write(tmp_path / "a", content)
    with pytest.raises(OSError, match="No space left"):
        saving.write(tmp_path / "b", content)
    saving.wait()  # said once
    saving.close()
