"""Checkpoints that are written while training goes on are those that are written at once."""

import errno
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dist_rec.training import checkpoint, kept, writer
from dist_rec.training.checkpoint import BEST, Content, state_to_save
from dist_rec.training.kept import newest_first
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


def _rank_0_cannot(data: Path, out: Path, part: str, code: int, asynchronous: bool) -> str:
    """Trains with a checkpoint at every step; once the second is there, rank 0 can copy or delete nothing."""
    ranks = these_ranks()
    changes = {"checkpoint": {"every_steps": 1, "keep_last": 1, "asynchronous": asynchronous}}
    config = make_config(data, out, **changes, run={"select_best": "auc", "eval_every": 1})
    link, remove = checkpoint._link, shutil.rmtree

    def fails(works: Any, *arguments: Any) -> None:
        if ranks.rank == 0 and (out / "run" / "checkpoints" / "step-2").exists():
            raise OSError(code, os.strerror(code), "a name inside")
        works(*arguments)

    if part == "copy":
        checkpoint._link = lambda *arguments: fails(link, *arguments)
    else:
        kept.shutil = SimpleNamespace(rmtree=lambda *arguments: fails(remove, *arguments))  # pyright: ignore
    try:
        run(config, ranks)
    except OSError as came:
        return f"{came.filename}: {came.strerror}"
    return ""


@pytest.mark.parametrize(
    ("part", "code", "asynchronous"),
    [
        ("copy", errno.ENOSPC, False),
        ("copy", errno.EACCES, True),
        ("delete", errno.EACCES, False),
        ("delete", errno.EACCES, True),
    ],
)
def test_what_rank_0_cannot_do_alone_is_said_on_all(
    data: Path, tmp_path: Path, part: str, code: int, *, asynchronous: bool
) -> None:
    said = run_ranks(_rank_0_cannot, 2, data, tmp_path, part, code, asynchronous)
    folder = tmp_path / "run" / "checkpoints"
    told = {
        "copy": f"{folder / 'step-3'}: the checkpoint could not be written",
        "delete": f"{folder / 'step-1'}: an old checkpoint could not be deleted",
    }
    assert said == [f"{told[part]}: {os.strerror(code)}"] * 2
    half = [] if part == "copy" else [".half-step-1"]
    assert sorted(path.name for path in folder.iterdir()) == [*half, BEST, "step-2"]
    assert newest_first(folder) == [folder / "step-2"]
