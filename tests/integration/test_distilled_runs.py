"""Whole runs with a teacher: exact resumption, averages over the versions that were applied, what is left of it in
evaluation."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from torch import Tensor

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config, ParallelConfig
from dist_rec.data.synthetic.delayed import DelayedConfig, synthesize_delayed
from dist_rec.training.evaluate import evaluate_checkpoint
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.ranks import Ranks, start_ranks
from tests.helpers.ranks import run_ranks
from tests.training.runs import assert_same_weights, losses, make_config, rows, run, saved_weights, these_ranks

RATE = 0.25
EMA = {"teacher": "ema", "teacher_rate": RATE, "warmup_updates": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A dataset and a moment at which a third of its training split is not final."""
    folder = tmp_path_factory.mktemp("delayed") / "data"
    stats = synthesize_delayed(folder, DelayedConfig(requests=120, days=21, max_length=12))
    return folder, stats["train"]["last_request"]


@pytest.fixture
def alone() -> Iterator[Ranks]:
    with start_ranks(ParallelConfig()) as ranks:
        yield ranks


def _config(data: tuple[Path, int], out: Path, /, **changes: Any) -> Config:
    folder, now = data
    later = {"data": {"batch_size": 12, "observed_at": now}, "checkpoint": {"every_steps": 3}, "distill": EMA}
    base = make_config(folder, out, **later)
    return make_config(folder, out, **{**later, **changes}) if changes else base


def _resumed(data: tuple[Path, int], out: Path, update: str) -> None:
    config = _config(data, out, optim={"dense_update": update, "lr": 0.01, "warmup_sync_steps": 2})
    ranks = these_ranks()
    run(config, ranks, "whole")
    run(config, ranks, "resumed", resume=out / "whole" / "checkpoints" / "step-3")


@pytest.mark.parametrize(
    ("ranks", "update"), [(1, "delayed"), (2, "delayed"), pytest.param(2, "sync", marks=pytest.mark.slow)]
)
def test_resuming_equals_no_interruption(data: tuple[Path, int], tmp_path: Path, ranks: int, update: str) -> None:
    """The copy, its versions and the weight of the lesson go on, to the bit."""
    run_ranks(_resumed, ranks, data, tmp_path, update)
    config = _config(data, tmp_path)
    whole, resumed = (saved_weights(config, folder) for folder in ("whole", "resumed"))
    assert_same_weights(whole, resumed)
    assert losses(config, "whole")[3:] == losses(config, "resumed")
    assert int(whole["objective.teacher.versions"]) == len(losses(config, "whole"))


@pytest.mark.parametrize(("update", "warmup"), [("sync", 0), ("delayed", 0), ("delayed", 2)])
def test_the_average_is_over_applied_versions(
    data: tuple[Path, int], tmp_path: Path, alone: Ranks, update: str, warmup: int
) -> None:
    """A recursion in NumPy over the weights of every checkpoint; each was flushed, so that no version is in flight."""
    config = _config(
        data,
        tmp_path,
        optim={"dense_update": update, "lr": 0.01, "warmup_sync_steps": warmup},
        checkpoint={"every_steps": 1},
        run={"eval_every": 1, "max_steps": 5},  # evaluating applies what is in flight
    )
    run(config, alone)
    versions = [saved_weights(config, checkpoint=f"step-{step}") for step in range(1, 6)]
    name = "ranker.body.encoders.history.cross.query.weight"
    live = [version[name].double().numpy() for version in versions]
    copies = [
        version[f"objective.teacher.copy.{name.removeprefix('ranker.')}"].double().numpy() for version in versions
    ]
    assert [int(version["objective.teacher.versions"]) for version in versions] == [1, 2, 3, 4, 5]
    for before, now, average in zip(copies, live[1:], copies[1:]):
        np.testing.assert_allclose(average, (1 - RATE) * before + RATE * now, rtol=0, atol=1e-7)
        assert np.abs(average - now).max() > 1e-5


def _unset(data: tuple[Path, int], out: Path) -> None:
    off = {"weight": 0.0, "teacher_weight": 0.0}
    for update in ("sync", "delayed"):
        for name, distill in (("off", off), ("none", None)):
            run(_config(data, out, distill=distill, optim={"dense_update": update}), these_ranks(), f"{name}-{update}")


@pytest.mark.parametrize("ranks", [1, 2])
def test_weights_of_zero_are_no_teacher_to_the_bit(data: tuple[Path, int], tmp_path: Path, ranks: int) -> None:
    run_ranks(_unset, ranks, data, tmp_path)
    for update in ("sync", "delayed"):
        config = _config(data, tmp_path)
        assert losses(config, f"off-{update}") == losses(config, f"none-{update}")
        assert_same_weights(*(saved_weights(config, f"{name}-{update}") for name in ("off", "none")))


def _served(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: of for name, of in weights.items() if not name.startswith(("ranker.feedback", "objective"))}


def test_a_checkpoint_is_evaluated_without_teacher_and_feedback(
    data: tuple[Path, int], tmp_path: Path, alone: Ranks
) -> None:
    """The same numbers as at the end of training, by the recipe with or without a teacher, from files that have no
    feedback at all."""
    folder, _ = data
    config = _config(data, tmp_path)
    result = run(config, alone)
    checkpoint = tmp_path / "run" / "checkpoints" / "last"
    assert 0 < len(_served(saved_weights(config))) < len(saved_weights(config))
    lines = evaluate_checkpoint(config, checkpoint, "test", alone)
    plain = config.model_copy(update={"distill": None})
    assert evaluate_checkpoint(plain, checkpoint, "test", alone) == lines
    assert f"{result.test['convert'].auc:.4f}" in "\n".join(lines)
    served = _without_feedback(folder, tmp_path / "served")
    of_server = plain.model_copy(update={"data": plain.data.model_copy(update={"path": str(served)})})
    assert (
        evaluate_checkpoint(of_server, checkpoint, "test", alone)[1:] == lines[1:-1]
    )  # it has no truth to compare with


def _without_feedback(folder: Path, out: Path) -> Path:
    schema = yaml.safe_load((folder / "schema.yaml").read_text())
    del schema["candidate"]["feedback"]
    out.mkdir()
    (out / "schema.yaml").write_text(yaml.safe_dump(schema))
    for path in sorted((folder / "test").glob("*.parquet")):
        table = pq.read_table(path)
        kept = [
            name for name in table.column_names if not name.startswith("feedback.") and "feedback_events" not in name
        ]
        (out / "test").mkdir(exist_ok=True)
        pq.write_table(table.select(kept), out / "test" / path.name)
    return out


def test_the_log_has_what_teacher_and_student_say(data: tuple[Path, int], tmp_path: Path, alone: Ranks) -> None:
    config = _config(data, tmp_path)
    run(config, alone)
    for row in rows(config):
        told = {
            name.removeprefix("distill.convert."): value for name, value in row.items() if name.startswith("distill")
        }
        assert told["both"] + told["feedback_only"] + told["label_only"] + told["neither"] == pytest.approx(1.0)
        assert (
            0.0 < told["agreement"] <= 1.0 and told["both"] > 0.0 < told["feedback_only"] and told["label_only"] == 0.0
        )
        assert {"teacher_calibration", "student_calibration", "credit_of_ones", "credit_of_zeros"} < told.keys()


@pytest.mark.parametrize("immature", ["fake_negative_weighting", "delayed_feedback_model"])
def test_corrections_of_delay_train_and_resume(
    data: tuple[Path, int], tmp_path: Path, alone: Ranks, immature: str
) -> None:
    model = {"head": {"hidden": [16], "immature": immature}}
    config = _config(data, tmp_path, model=model, distill=None)
    result = run(config, alone, "whole")
    run(config, alone, "resumed", resume=tmp_path / "whole" / "checkpoints" / "step-3")
    assert_same_weights(*(saved_weights(config, folder) for folder in ("whole", "resumed")))
    assert isinstance(result.test["convert"], TaskMetrics) and np.isfinite(result.test["convert"].logloss)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"observed_at": None}, "model": {"head": {"immature": "delayed_feedback_model"}}},
            "needs data.observed_at",
        ),
        ({"model": {"name": "din"}}, "distill: din has no place for feedback"),
        ({"distill": {"tasks": {"click": 1.0}}}, "distill.tasks: no such task as click; the schema's are: convert"),
        ({"distill": {"allow_leak": ["click"]}}, "distill.allow_leak: no such task as click"),
    ],
)
def test_the_door_says_what_does_not_fit(
    data: tuple[Path, int], tmp_path: Path, alone: Ranks, changes: dict[str, Any], message: str
) -> None:
    folder, now = data
    both = {"data": {"observed_at": now, **changes.pop("data", {})}, "distill": EMA, **changes}
    with pytest.raises(ConfigError, match=message):
        run(make_config(folder, tmp_path, **both), alone)


def _changed(folder: Path, out: Path, **of_tables: int) -> Path:
    """The same data; feedback also has an id `shown` in a table of its own or one that only the context has."""
    schema = yaml.safe_load((folder / "schema.yaml").read_text())
    schema["tables"] |= of_tables
    table = next(iter(of_tables), "segment")
    schema["candidate"]["feedback"]["ids"].append({"name": "shown", "table": table})
    out.mkdir()
    (out / "schema.yaml").write_text(yaml.safe_dump(schema))
    for split in ("train", "valid", "test"):
        (out / split).mkdir()
        for path in sorted((folder / split).glob("*.parquet")):
            whole = pq.read_table(path)
            whole = whole.append_column("feedback.shown", whole["feedback.dwell"].cast(pa.list_(pa.int16())))
            rows = [[value % 8 for value in of] for of in whole["feedback.shown"].to_pylist()]
            at = whole.schema.get_field_index("feedback.shown")
            pq.write_table(whole.set_column(at, "feedback.shown", pa.array(rows)), out / split / path.name)
    return out


HIDING = {"rules": [{"reason": "privacy", "field": "category", "values": [1]}]}
ONLY_FEEDBACK = {"rules": [{"reason": "privacy", "field": "shown", "values": [1]}]}


@pytest.mark.parametrize(
    ("tables", "changes"),
    [
        ({}, {"data": {"filter": HIDING}}),
        ({"shown": 8}, {"embedding": {"tables": {"shown": {"sharding": ["row_wise"]}}}}),
        ({"shown": 8}, {"data": {"filter": ONLY_FEEDBACK}}),
    ],
    ids=["HIDDEN in a table of context and feedback", "a table of feedback alone", "a rule of feedback alone"],
)
def test_what_only_feedback_has_is_no_matter_to_evaluation_and_baselines(
    data: tuple[Path, int], tmp_path: Path, alone: Ranks, tables: dict[str, int], changes: dict[str, Any]
) -> None:
    folder, now = data
    both = {"data": {"batch_size": 12, "observed_at": now} | changes.get("data", {}), "distill": EMA}
    config = make_config(_changed(folder, tmp_path / "data", **tables), tmp_path, **(changes | both))
    run(config, alone)
    checkpoint, plain = tmp_path / "run" / "checkpoints" / "last", config.model_copy(update={"distill": None})
    assert evaluate_checkpoint(config, checkpoint, "test", alone) == evaluate_checkpoint(
        plain, checkpoint, "test", alone
    )
    run(plain, alone, "plain")


def test_labels_that_the_files_do_not_know_are_counted_nowhere(
    data: tuple[Path, int], tmp_path: Path, alone: Ranks
) -> None:
    """In evaluation, too: at the end of train none of the later requests is final."""
    _, now = data
    some = run(_config(data, tmp_path, data={"written_at": now + 10 * 86_400}), alone, "some").test["convert"]
    every = run(_config(data, tmp_path, data={"written_at": now + 99 * 86_400}), alone, "every").test["convert"]
    assert 0 < some.candidates < every.candidates
    assert run(_config(data, tmp_path, data={"written_at": now}), alone, "none").test["convert"].candidates == 0
