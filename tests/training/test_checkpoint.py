"""Checkpoints: any number of ranks reads what any other wrote, and a save that fails costs nothing."""

import errno
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import FileSystemWriter

from dist_rec.common.made import NotOurs
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.position import DataPosition
from dist_rec.training import checkpoint
from dist_rec.training.checkpoint import (
    Position,
    check_resumable,
    load_checkpoint,
    load_position,
    load_random,
    save_checkpoint,
)
from dist_rec.training.made_with import MadeWith
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.pipeline import make_optimizer, plan_model, shard_model
from dist_rec.training.ranks import Ranks
from dist_rec.training.selection import SelectionState
from dist_rec.training.splits import dataset_schema
from tests.helpers.ranks import run_ranks
from tests.training.feedback_data import taught_config, write_feedback
from tests.training.runs import (
    assert_same_weights,
    evaluate_split,
    fresh,
    load,
    make_config,
    run,
    saved_state,
    these_ranks,
)

Metrics = dict[str, TaskMetrics]


def _config(data: Path, out: Path) -> Config:
    """Stops after three steps with a gradient in flight. One request per evaluated batch: then nothing depends on how
    requests are spread over batches, and metrics of one and two ranks are equal to the last bit."""
    return make_config(
        data,
        out,
        data={"batch_size": 4, "eval_batch_size": 1, "valid": []},
        run={"max_steps": 3},
        checkpoint={"every_steps": 2},
        # One table for each way of being split.
        embedding={"tables": {"item": {"sharding": ["row_wise"]}, "kind": {"sharding": ["data_parallel"]}}},
    )


def _position(at: int) -> Position:
    settings = {"batch_size": 4, "batch_events": None}
    return Position(
        data=DataPosition(step=at, ranks=1, workers=1, settings=settings),
        requests=4 * at,
        run=SelectionState(best=-math.inf, since_best=0, valid={}),
    )


def _two_ranks(data: Path, one: Path, out: Path) -> Metrics:
    """Loads what one rank saved and saves it again; then trains and saves something of its own."""
    ranks, config = these_ranks(), _config(data, out)
    model, optimizer = load(config, ranks, one)
    save_checkpoint(out / "again", model, optimizer, ranks)
    metrics = evaluate_split(config, model, ranks)
    run(config, ranks)
    return metrics


def test_one_and_two_ranks_read_each_other(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = _config(data, tmp_path)
    run(config, alone)
    one = tmp_path / "run" / "checkpoints" / "step-2"
    first, second = run_ranks(_two_ranks, 2, data, one, tmp_path / "two")
    model, _ = load(config, alone, one)
    assert first == second == evaluate_split(config, model, alone)
    _assert_same_state(saved_state(tmp_path / "two" / "again"), saved_state(one))

    two = tmp_path / "two" / "run" / "checkpoints"
    model, optimizer = load(config, alone, two / "step-2")
    save_checkpoint(tmp_path / "one-again", model, optimizer, alone)
    _assert_same_state(saved_state(tmp_path / "one-again"), saved_state(two / "step-2"))
    load_checkpoint(two / "last", model, None, alone)
    tested = [json.loads(line) for line in (two.parent / "metrics.jsonl").read_text().splitlines()]
    expected = {row["task"]: row["logloss"] for row in tested if row["event"] == "test"}
    assert {task: m.logloss for task, m in evaluate_split(config, model, alone).items()} == expected


def _assert_same_state(a: Any, b: Any) -> None:
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for name in a:
            _assert_same_state(a[name], b[name])
    else:
        assert torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def test_holds_the_gradient_in_flight(data: Path, tmp_path: Path, alone: Ranks) -> None:
    run(_config(data, tmp_path), alone)
    state = saved_state(tmp_path / "run" / "checkpoints" / "step-2")["optimizer"]
    assert state["counters"].tolist()[:4] == [2, 1, 0, 1], "two steps, one of them applied, none skipped, one in flight"
    assert all(entry["there"] for entry in state["in_flight"].values())
    assert any(entry["value"].any() for entry in state["in_flight"].values())


def test_a_save_that_fails_leaves_the_good_one(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(data, tmp_path)
    model, optimizer = fresh(config, alone)
    save_checkpoint(tmp_path / "good", model, optimizer, alone, position=_position(1))
    before = saved_state(tmp_path / "good")
    save = dcp.save

    def broken(state: Any, *, checkpoint_id: Path, **_: Any) -> None:
        (checkpoint_id / "__0_0.distcp").write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr(dcp, "save", broken)
    with pytest.raises(OSError, match="No space left"):
        save_checkpoint(tmp_path / "good", model, optimizer, alone, position=_position(2))
    assert load_position(tmp_path / "good").data.step == 1
    _assert_same_state(saved_state(tmp_path / "good"), before)

    monkeypatch.setattr(dcp, "save", save)
    save_checkpoint(tmp_path / "good", model, optimizer, alone, position=_position(3))
    assert load_position(tmp_path / "good").data.step == 3
    assert [path.name for path in tmp_path.iterdir()] == ["good"]


def test_a_folder_of_somebody_else_is_not_replaced(data: Path, tmp_path: Path, alone: Ranks) -> None:
    model, _ = fresh(make_config(data, tmp_path), alone)
    mine = tmp_path / "mine" / "notes.txt"
    mine.parent.mkdir()
    mine.write_text("keep")
    with pytest.raises(NotOurs, match=r"mine: expected a new or empty folder.*notes.txt"):
        save_checkpoint(tmp_path / "mine", model, None, alone)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"] and mine.read_text() == "keep"
    save_checkpoint(tmp_path / "ours", model, None, alone)
    (tmp_path / "ours" / "notes.txt").write_text("keep")
    with pytest.raises(NotOurs, match=r"notes\.txt was added"):
        save_checkpoint(tmp_path / "ours", model, None, alone)


def _one_rank_cannot_write(data: Path, out: Path) -> str:
    ranks = these_ranks()
    model, _ = fresh(make_config(data, out), ranks)
    write = FileSystemWriter.write_data

    def full(self: Any, *arguments: Any) -> Any:
        if ranks.rank == 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(self, *arguments)

    FileSystemWriter.write_data = full  # pyright: ignore[reportAttributeAccessIssue]
    try:
        save_checkpoint(out / "full", model, None, ranks)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return "saved"


def test_a_disk_that_is_full_on_one_rank_is_said_on_all(data: Path, tmp_path: Path) -> None:
    said = run_ranks(_one_rank_cannot_write, 2, data, tmp_path)
    assert said == [f"{tmp_path / 'full'}: the checkpoint could not be written: No space left on device"] * 2
    assert not list(tmp_path.iterdir())


def _one_rank_cannot_write_the_rest(data: Path, out: Path, part: str, broken: int) -> str:
    """`part` of what is written beside tensors."""
    ranks = these_ranks()
    model, _ = fresh(make_config(data, out), ranks)

    def full(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device", "somewhere")

    if ranks.rank == broken:
        setattr(checkpoint, part, full)
    random = {"cpu": [ranks.rank]}
    try:
        save_checkpoint(out / "full", model, None, ranks, random=random)
    except OSError as error:
        return f"{error.filename}: {error.strerror}"
    return "saved"


@pytest.mark.parametrize(
    ("part", "broken"),
    [("_half", 0), ("_random_file", 1), ("_random_file", 0), ("_complete", 0), ("replace", 0)],
)
def test_whatever_one_rank_cannot_write_is_said_on_all(data: Path, tmp_path: Path, part: str, broken: int) -> None:
    said = run_ranks(_one_rank_cannot_write_the_rest, 2, data, tmp_path, part, broken)
    assert said == [f"{tmp_path / 'full'}: the checkpoint could not be written: No space left on device"] * 2
    assert not list(tmp_path.iterdir())


def test_loading_brings_the_weights_back(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path)
    model, _ = fresh(config, alone)
    save_checkpoint(tmp_path / "saved", model, None, alone)
    torch.manual_seed(1)
    other, _ = fresh(config, alone)
    save_checkpoint(tmp_path / "other", other, None, alone)
    with pytest.raises(AssertionError, match="differs"):
        assert_same_weights(saved_state(tmp_path / "other")["model"], saved_state(tmp_path / "saved")["model"])
    load_checkpoint(tmp_path / "saved", other, None, alone)
    save_checkpoint(tmp_path / "other", other, None, alone)
    assert_same_weights(saved_state(tmp_path / "other")["model"], saved_state(tmp_path / "saved")["model"])


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"longer": {"self_layers": 2}}},  # parameters that the checkpoint lacks
        {"model": {"longer": {"self_layers": 0}}},  # and that only the checkpoint has
        {"model": {"head": {"hidden": [17]}}},
        {"embedding": {"dim": 12}},
    ],
    ids=["more layers", "fewer layers", "another width", "wider tables"],
)
def test_another_model_is_refused(data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any]) -> None:
    model, _ = fresh(make_config(data, tmp_path), alone)
    save_checkpoint(tmp_path / "saved", model, None, alone)
    other, _ = fresh(make_config(data, tmp_path, **changes), alone)
    with pytest.raises(ConfigError, match="saved: does not fit this model; was it made by another recipe"):
        load_checkpoint(tmp_path / "saved", other, None, alone)


def test_what_a_teacher_alone_has_may_be_left_out_to_evaluate(tmp_path: Path, alone: Ranks) -> None:
    """The copy of the weights; everything else is there, to the bit."""
    config = taught_config(write_feedback(tmp_path / "data"), tmp_path)
    run(config, alone)
    step = tmp_path / "run" / "checkpoints" / "step-2"
    saved = saved_state(step)["model"]
    of_teacher = {name for name in saved if name.startswith("objective.teacher.")}
    for part in ("copy.", "versions"):
        assert any(name.startswith(f"objective.teacher.{part}") for name in of_teacher), part
    plain = config.model_copy(update={"distill": None})
    schema = MadeWith.read(step).schema_for(dataset_schema(plain), plain, step)
    model, plan = plan_model(schema, plain, alone)
    served = shard_model(model, plan, plain, alone)
    optimizer = make_optimizer(served, plain.optim, 6, alone)
    load_checkpoint(step, served, None, alone)
    save_checkpoint(tmp_path / "served", served, None, alone)
    left = {name: value for name, value in saved.items() if name not in of_teacher}
    assert_same_weights(saved_state(tmp_path / "served")["model"], left)

    with pytest.raises(ConfigError, match="step-2: does not fit this model") as caught:
        load_checkpoint(step, served, optimizer, alone)
    assert all(f"model.{name}" in str(caught.value) for name in of_teacher), "a run that goes on needs all of it"


@pytest.mark.parametrize("content", [None, "recipe.yaml"])
def test_a_folder_that_is_no_checkpoint_is_named(data: Path, tmp_path: Path, alone: Ranks, content: str | None) -> None:
    folder = tmp_path / "something"
    if content is not None:
        folder.mkdir()
        (folder / content).write_text("")
    model, _ = fresh(make_config(data, tmp_path), alone)
    with pytest.raises(ConfigError, match="something: not a checkpoint; expected a folder made by a run"):
        load_checkpoint(folder, model, None, alone)


def test_random_numbers_belong_to_a_number_of_ranks(data: Path, tmp_path: Path, alone: Ranks) -> None:
    model, optimizer = fresh(make_config(data, tmp_path), alone)
    random = {"cpu": [1, 2, 3]}
    save_checkpoint(tmp_path / "saved", model, optimizer, alone, position=_position(1), random=random)
    assert load_random(tmp_path / "saved", alone) == random
    assert load_random(tmp_path / "saved", replace(alone, world_size=2)) is None
    (tmp_path / "saved" / "random-0-of-1.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"random-0-of-1.json: damaged: expected a random state"):
        load_random(tmp_path / "saved", alone)


def test_a_checkpoint_without_a_position_says_what_it_is_for(data: Path, tmp_path: Path, alone: Ranks) -> None:
    model, optimizer = fresh(make_config(data, tmp_path), alone)
    save_checkpoint(tmp_path / "saved", model, optimizer, alone)
    with pytest.raises(ConfigError, match=r"saved: holds no position in the data; resuming needs a checkpoint made by"):
        check_resumable(tmp_path / "saved")
    (tmp_path / "saved" / "position-0-of-1.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"saved: saved by an earlier version of dist_rec, which kept the position"):
        check_resumable(tmp_path / "saved")
