"""A run whose teacher would be its label stops on all ranks before its first step, and says why."""

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

from dist_rec.common.seed import random_state
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.training.feedback_audit import audit_feedback, audit_recipe, refuse_leaks
from dist_rec.training.ranks import Ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.setup import open_run
from dist_rec.training.splits import dataset_schema
from tests.distill.late import telling, write_late
from tests.helpers.ranks import run_ranks
from tests.training.runs import make_config, quiet_console, rows, run, these_ranks


@pytest.fixture(scope="module")
def late(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_late(tmp_path_factory.mktemp("late") / "data")


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_late(tmp_path_factory.mktemp("leaking") / "data", telling)


def _config(data: Path, out: Path, **changes: Any) -> Config:
    changes = {"distill": {"weight": 1.0}, "run": {"max_steps": 2}, **changes}
    return make_config(data, out, **changes)


def test_a_run_says_what_it_found(late: Path, tmp_path: Path, alone: Ranks) -> None:
    config = _config(late, tmp_path)
    run(config, alone)
    (row,) = rows(config, event="feedback_audit")
    assert row["task"] == "convert" and row["step"] == 0 and 0.7 < row["auc"] < 0.85
    assert row["candidates"] == row["with_feedback"] == 4800
    lines, leak = audit_recipe(config)
    assert leak == "" and len(lines) == 1 and f"AUC {row['auc']:.3f}" in lines[0]


def test_a_leak_stops_a_run_before_it_starts(leaking: Path, tmp_path: Path, alone: Ranks) -> None:
    config = _config(leaking, tmp_path)
    with pytest.raises(ConfigError, match=r"feedback alone tells convert with AUC .*, above the limit of 0\.95"):
        run(config, alone)
    assert not rows(config) and rows(config, event="feedback_audit")[0]["auc"] > 0.99
    assert "allow_leak: [convert]" in audit_recipe(config)[1]


def test_a_leak_may_be_allowed(leaking: Path, tmp_path: Path, alone: Ranks) -> None:
    config = _config(leaking, tmp_path, distill={"allow_leak": ["convert"]})
    run(config, alone)
    assert len(rows(config)) == 2 and audit_recipe(config)[1] == ""


def test_without_a_teacher_nothing_is_measured(leaking: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(leaking, tmp_path, run={"max_steps": 2})
    run(config, alone)
    assert not rows(config, event="feedback_audit")
    with pytest.raises(ConfigError, match="the recipe has no teacher"):
        audit_recipe(config)


def test_random_numbers_of_the_run_are_not_drawn(late: Path, tmp_path: Path, alone: Ranks) -> None:
    """Only rank 0 measures: it would start from other weights than the others."""
    config, before = _config(late, tmp_path), random_state()
    audit_feedback(config, dataset_schema(config), alone)
    assert pickle.dumps(random_state()) == pickle.dumps(before)


def _stopped(leaking: Path, out: Path) -> tuple[str, str]:
    """What a run says at its end, and what all ranks know of the audit."""
    ranks, config = these_ranks(), _config(leaking, out)
    found = audit_feedback(config, dataset_schema(config), ranks)
    with (
        RunLog(out / "two", is_main=ranks.is_main, console=quiet_console()) as log,
        pytest.raises(ConfigError) as caught,
    ):
        open_run(config, ranks, log, None)
    dist.barrier()
    with pytest.raises(ConfigError, match=r"allow_leak: \[convert\]"):
        refuse_leaks(config, found)
    return str(caught.value), json.dumps([audit.told(task) for task, audit in found.items()])


def test_two_ranks_stop_alike(leaking: Path, tmp_path: Path) -> None:
    first, second = run_ranks(_stopped, 2, leaking, tmp_path)
    assert first == second and "feedback alone tells convert" in first[0] and "4,800 candidates" in first[1]
