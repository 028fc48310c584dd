"""The loop on tiny data: it trains, repeats itself bit for bit, goes on where it stopped, and nobody hangs."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from dist_rec.common.errors import RunError
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.writer import write_schema, write_split
from dist_rec.training import loop
from dist_rec.training.evaluate import evaluate_checkpoint
from dist_rec.training.ranks import Ranks
from dist_rec.training.setup import Run
from tests.data.requests import make_rows, make_schema, make_table
from tests.helpers.ranks import run_ranks
from tests.training.runs import (
    assert_same_weights,
    losses,
    make_config,
    rows,
    run,
    saved_weights,
    these_ranks,
    write_dataset,
)

UNEVEN = {"train": [3, 10, 1], "valid": [5], "test": [6]}  # rank 1 runs out in training and has nothing to evaluate

BY_EVENTS = {"batch_size": None, "batch_events": 30}  # in 48 requests of about 7 events, over two ranks


def _on_two(data: Path, out: Path, /, **changes: Any) -> Config:
    """Six steps an epoch over two ranks."""
    return make_config(data, out, **{"data": {"batch_size": 4}, **changes})


def _train_in_many_ways(data: Path, uneven: Path, out: Path) -> dict[str, Any]:
    """Everything that needs two ranks, in one job: starting ranks costs more than the runs."""
    ranks = these_ranks()
    results: dict[str, Any] = {}
    for update in ("sync", "delayed"):
        config = _on_two(data, out, optim={"dense_update": update})
        for again in range(2):
            run(config, ranks, f"{update}-{again}")
        run(
            _on_two(data, out, data={"valid": [], "batch_size": 4}, optim={"dense_update": update}, run={"epochs": 12}),
            ranks,
            update,
        )
    config = _on_two(
        data, out, checkpoint={"every_steps": 2}, run={"eval_every": 4}, model={"longer": {"dropout": 0.3}}
    )
    run(config, ranks, "whole")
    for step in (2, 4):  # 4: evaluated there too
        run(config, ranks, f"from-{step}", resume=out / "whole" / "checkpoints" / f"step-{step}")
    by_events = _on_two(data, out, data=BY_EVENTS, checkpoint={"every_steps": 2})
    run(by_events, ranks, "by-events")
    run(by_events, ranks, "by-events-from-2", resume=out / "by-events" / "checkpoints" / "step-2")
    run(_on_two(data, out, data={"batch_size": 4, "dedup": False}), ranks, "every-event")
    results["uneven"] = run(_on_two(uneven, out), ranks, "uneven")
    return results


@pytest.fixture(scope="module")
def two_ranks(data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, list[dict[str, Any]]]:
    out = tmp_path_factory.mktemp("two")
    uneven = write_dataset(out / "uneven-data", UNEVEN)
    return _on_two(data, out), run_ranks(_train_in_many_ways, 2, data, uneven, out)


TwoRanks = tuple[Config, list[dict[str, Any]]]


@pytest.mark.parametrize("update", ["sync", "delayed"])
def test_learns_its_training_data(two_ranks: TwoRanks, update: str) -> None:
    found = losses(two_ranks[0], update)
    assert len(found) == 12 * 6
    assert sum(found[-6:]) / 6 < 0.95 * sum(found[:6]) / 6


def test_losses_are_the_same_without_dedup(two_ranks: TwoRanks) -> None:
    """A row looked up once or for every event of it: the same sums in another order."""
    config, _ = two_ranks
    without = losses(config, "every-event")
    assert without == pytest.approx(losses(config, "delayed-0"), abs=1e-5) and len(without) == 6
    crossed = [sum(row["bytes_per_step"] for row in rows(config, folder)) for folder in ("delayed-0", "every-event")]
    assert crossed[0] < crossed[1]


@pytest.mark.parametrize("update", ["sync", "delayed"])
def test_one_seed_makes_two_runs_bit_identical(two_ranks: TwoRanks, update: str) -> None:
    config, _ = two_ranks
    first, second = f"{update}-0", f"{update}-1"
    assert losses(config, first) == losses(config, second)
    for split in ("valid", "test"):
        assert rows(config, first, split) == rows(config, second, split)
    assert_same_weights(saved_weights(config, first), saved_weights(config, second))


def test_a_delayed_update_is_another_trajectory(two_ranks: TwoRanks) -> None:
    """The first step of `delayed` applies nothing dense, so from the second loss on the two must differ."""
    sync, delayed = (losses(two_ranks[0], f"{update}-0") for update in ("sync", "delayed"))
    assert sync[0] == pytest.approx(delayed[0], rel=1e-6)
    assert sync[1] != delayed[1]


@pytest.mark.parametrize("step", [2, 4])
def test_resuming_equals_no_interruption(two_ranks: TwoRanks, step: int) -> None:
    """Delayed, so the gradient in flight must come back; in step 4 the run also evaluated, which flushes it."""
    config, _ = two_ranks
    assert losses(config, f"from-{step}") == losses(config, "whole")[step:]
    assert rows(config, f"from-{step}", "test") == rows(config, "whole", "test")
    assert_same_weights(saved_weights(config, f"from-{step}"), saved_weights(config, "whole"))


def test_batches_by_events_train_and_resume(two_ranks: TwoRanks) -> None:
    config, _ = two_ranks
    windows = rows(config, "by-events")
    assert sum(round(row["requests_per_s"] * row["seconds"]) for row in windows) == 48
    assert all(row["largest_events_per_step"] <= 30 + 12 for row in windows)
    assert all(row["events_per_step"] <= row["largest_events_per_step"] for row in windows)
    assert losses(config, "by-events-from-2") == losses(config, "by-events")[2:]
    assert_same_weights(saved_weights(config, "by-events-from-2"), saved_weights(config, "by-events"))


def test_a_rank_without_data_takes_part(two_ranks: TwoRanks) -> None:
    config, results = two_ranks
    windows = rows(config, "uneven")
    assert sum(round(row["requests_per_s"] * row["seconds"]) for row in windows) == sum(UNEVEN["train"])
    assert all(math.isfinite(row["loss"]) for row in windows)
    first, second = (result["uneven"] for result in results)
    assert first.steps == len(windows) == 3
    assert first.test["click"] == second.test["click"]
    assert first.test["click"].candidates > 0


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"workers": 2}},
        {"optim": {"dense_update": "sync", "optimizer": "sgd", "momentum": 0.9}, "embedding": {"optimizer": "sgd"}},
    ],
    ids=["reader processes", "sync"],
)
def test_resuming_alone_equals_no_interruption(
    data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any]
) -> None:
    config = make_config(data, tmp_path, checkpoint={"every_steps": 3}, run={"epochs": 2}, **changes)
    run(config, alone, "whole")
    run(config, alone, "resumed", resume=tmp_path / "whole" / "checkpoints" / "step-3")
    assert losses(config, "resumed") == losses(config, "whole")[3:]
    assert_same_weights(saved_weights(config, "resumed"), saved_weights(config, "whole"))


def test_another_seed_is_another_run(data: Path, tmp_path: Path, alone: Ranks) -> None:
    configs = [make_config(data, tmp_path, run={"seed": seed, "max_steps": 2}) for seed in (0, 1)]
    for number, config in enumerate(configs):
        run(config, alone, str(number))
    assert losses(configs[0], "0") != losses(configs[1], "1")


def test_keeps_the_best_weights_and_loses_patience(data: Path, tmp_path: Path, alone: Ranks) -> None:
    changes = {"eval_every": 1, "select_best": "auc", "patience": 3, "epochs": 6}
    config = make_config(data, tmp_path, run=changes)
    result = run(config, alone)
    scores = [row["auc"] for row in rows(config, event="valid") if row["task"] == "click"]
    best = scores.index(max(scores))
    assert len(scores) == result.steps == best + 1 + 3 < 36
    assert result.valid["click"].auc == scores[best]
    lines = evaluate_checkpoint(config, tmp_path / "run" / "checkpoints" / "best", "test", alone)
    assert any(f"| click | {result.test['click'].auc:.4f} |" in line for line in lines)
    by_best = run(config, alone, "again").test
    last = evaluate_checkpoint(config, tmp_path / "again" / "checkpoints" / "last", "test", alone)
    assert by_best == result.test
    assert lines[1:] != last[1:], "the weights after three more steps must not be the best ones"


def test_the_lowest_logloss_can_choose(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, run={"eval_every": 1, "select_best": "logloss", "epochs": 2})
    result = run(config, alone)
    scores = [row["logloss"] for row in rows(config, event="valid") if row["task"] == "click"]
    assert len(scores) == result.steps == 12
    assert result.valid["click"].logloss == min(scores)


def test_a_validation_split_of_one_class_still_ends_well(tmp_path: Path, alone: Ranks) -> None:
    """Its AUC is NaN, which is better than nothing."""
    folder = write_dataset(tmp_path / "data", {"train": [8], "test": [6]})
    requests = [{**row, "candidate.click": [0] * len(row["candidate.item"])} for row in make_rows(4)]
    write_split(folder / "valid", make_table(requests), make_schema())
    config = make_config(folder, tmp_path, run={"select_best": "auc"})
    result = run(config, alone)
    assert math.isnan(result.valid["click"].auc), "the premise: one class"
    assert result.test["click"].candidates > 0


def test_a_conditional_task_trains_and_ends_well(tmp_path: Path, alone: Ranks) -> None:
    """Its labels are NaN where the condition is 0, and in one batch they all are."""
    candidate = {"ids": ["item", "kind"], "labels": ["click", "buy"], "oracle": True, "given": {"buy": "click"}}
    schema, requests = make_schema(candidate=candidate), make_rows(24)
    for row in requests[:8]:
        row["candidate.click"] = [0] * len(row["candidate.click"])
    write_schema(tmp_path / "data", schema)
    for split in ("train", "valid", "test"):
        write_split(tmp_path / "data" / split, make_table(requests, schema), schema)
    config = make_config(
        tmp_path / "data",
        tmp_path,
        data={"shuffle_window": 1},
        model={"head": {"task_weights": {"buy": 2.0}}},
        run={"epochs": 10, "select_best": "auc"},
    )
    result = run(config, alone)
    first, *_, last = losses(config)
    assert all(map(math.isfinite, losses(config))) and last < first
    clicks = sum(sum(row["candidate.click"]) for row in requests)
    assert result.test["buy"].candidates == clicks < result.test["click"].candidates
    assert 0.5 < result.test["buy"].auc <= 1.0 and math.isfinite(result.test["buy"].logloss)
    assert all(weight.isfinite().all() for weight in saved_weights(config).values())


def test_weights_that_diverge_are_said_and_never_chosen(data: Path, tmp_path: Path, alone: Ranks) -> None:
    early = make_config(data, tmp_path, embedding={"lr": 1e30}, run={"select_best": "auc", "eval_every": 2})
    with pytest.raises(
        RunError, match=r"have diverged: after step 2 scores of click .* not finite.*embedding.lr=1e\+30"
    ):
        run(early, alone, "early")
    assert not (tmp_path / "early" / "checkpoints" / "best").exists()
    assert all(row["auc"] is None for row in rows(early, "early", "valid"))


def test_weights_that_diverge_late_leave_the_best(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(data, tmp_path, run={"select_best": "logloss", "eval_every": 2})
    validate = loop._validate

    def ruined(run: Run, step: int) -> bool:
        if step == 4:
            with torch.no_grad():
                for parameter in run.model.parameters():
                    parameter.fill_(math.nan)
        return validate(run, step)

    monkeypatch.setattr(loop, "_validate", ruined)
    result = run(config, alone)
    assert result.steps == 4 and math.isfinite(result.test["click"].logloss)


def test_stops_after_max_steps(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, run={"max_steps": 4, "epochs": 3})
    assert run(config, alone).steps == 4
    assert len(losses(config)) == 4


def test_works_without_validation_and_test_splits(data: Path, tmp_path: Path, alone: Ranks) -> None:
    result = run(make_config(data, tmp_path, data={"valid": [], "test": []}, checkpoint={"at_end": False}), alone)
    assert (result.steps, result.valid, result.test) == (6, {}, {})
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_logs_every_n_steps_and_the_last(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, run={"log_every": 4})
    run(config, alone)
    assert [(row["step"], row["steps"]) for row in rows(config)] == [(4, 4), (6, 2)]


def test_choosing_by_validation_needs_a_validation_split(data: Path, tmp_path: Path, alone: Ranks) -> None:
    with pytest.raises(ConfigError, match=r"select_best=auc needs data\.valid"):
        run(make_config(data, tmp_path, data={"valid": []}, run={"select_best": "auc"}), alone)


def test_a_checkpoint_of_the_end_cannot_be_resumed_and_says_why(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, run={"max_steps": 1})
    run(config, alone)
    with pytest.raises(
        ConfigError, match=r"holds weights only; resuming needs a checkpoint made by checkpoint\.every_steps"
    ):
        run(config, alone, "resumed", resume=tmp_path / "run" / "checkpoints" / "last")


def test_a_checkpoint_is_not_resumed_behind_the_end_or_with_another_seed(
    data: Path, tmp_path: Path, alone: Ranks
) -> None:
    config = make_config(data, tmp_path, run={"max_steps": 1}, checkpoint={"every_steps": 1})
    run(config, alone)
    with pytest.raises(ConfigError, match="saved after step 1 of 1; there is nothing left to train"):
        run(config, alone, "resumed", resume=tmp_path / "run" / "checkpoints" / "step-1")
    other = make_config(data, tmp_path, run={"seed": 1})
    with pytest.raises(ConfigError, match="saved with seed=0, now it is 1"):
        run(other, alone, "resumed", resume=tmp_path / "run" / "checkpoints" / "step-1")
