"""The result of a run that has ended, kept in its folder."""

import math
from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.result import RESULT, RunResult

FORGET = TaskMetrics(0.5, 0.5, 0.7, 1.0, 1.0, 4, 0.5)
METRICS = TaskMetrics(0.7, math.inf, 0.5, 0.9, 1.0, 10, 0.4, own={"top1": 0.2}, strata={"forget": FORGET})


def test_is_read_as_it_was_written(tmp_path: Path) -> None:
    result = RunResult({"click": METRICS}, {}, 60, 1.5)
    result.write(tmp_path)
    assert RunResult.read(tmp_path) == result
    assert [path.name for path in tmp_path.iterdir()] == [RESULT]


def test_numbers_that_are_not_defined_stay_so(tmp_path: Path) -> None:
    RunResult({"click": TaskMetrics(math.nan, 0.0, 0.0, 0.0, 0.0, 0, math.nan)}, {}, 1, 0.0).write(tmp_path)
    found = RunResult.read(tmp_path)
    assert found is not None and math.isnan(found.test["click"].auc) and math.isnan(found.test["click"].label_rate)


def test_a_run_that_has_not_ended_has_none(tmp_path: Path) -> None:
    assert RunResult.read(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"test": {}}', "\x80"])
def test_damage_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(ConfigError, match=r"result.json: damaged: .*; delete it to end the run again"):
        RunResult.read(tmp_path)
