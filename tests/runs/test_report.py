"""What is said of runs: the table of all, and of some what differs, how good they are and whether that is chance."""

import json
from pathlib import Path

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.runs.find import find_runs
from dist_rec.runs.report import Report, report
from dist_rec.training.result import RunResult
from tests.runs.folders import metrics, write_run, write_study

LOW, HIGH = [0.60, 0.61, 0.62, 0.63], [0.70, 0.71, 0.72, 0.73]


def _report(folder: Path, *names: str, compared: bool = True) -> Report:
    found = find_runs(folder)
    return report(found.runs, found.others, names, compared=compared)


def _table(found: Report, title: str) -> dict[str, dict[str, str]]:
    """First cell -> column -> cell."""
    ((_, header, rows),) = [of for of in found.tables if of[0].startswith(title)]
    return {row[0]: dict(zip(header[1:], row[1:], strict=True)) for row in rows}


@pytest.fixture
def two(tmp_path: Path) -> Path:
    write_study(tmp_path / "low", LOW)
    write_study(tmp_path / "high", HIGH, optim={"lr": 0.5})
    return tmp_path


def test_the_table_of_all_runs(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.75, run={"seed": 3})
    write_run(tmp_path / "b", None, state="interrupted", optim={"lr": 0.5})
    found = _report(tmp_path, compared=False)
    rows = _table(found, "Runs")
    assert rows["a"] == {
        **{"started": "2026-11-01 12:00", "state": "finished", "steps": "30", "samples": "960"},
        **{"valid auc": "0.7000", "test auc": "0.7500", "commit": "abc1234", "seed": "3", "recipe": "A longer"},
    }
    assert (rows["b"]["state"], rows["b"]["valid auc"], rows["b"]["test auc"]) == ("interrupted", "0.5500", "-")
    assert rows["b"]["recipe"] == "B longer"
    assert len(found.tables) == 1 and found.notes == found.tests == found.warnings == []


def test_a_run_of_which_nothing_is_known_is_a_row(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", 0.75)
    for path in folder.iterdir():
        path.write_text("" if path.name == "metrics.jsonl" else "{")
    found = _report(tmp_path)
    row = _table(found, "Runs")["a"]
    assert row["state"] == "not ended" and {row[name] for name in ("started", "samples", "commit", "seed")} == {"-"}
    assert len(found.warnings) == 3


def test_what_differs_and_metrics_side_by_side(two: Path) -> None:
    found = _report(two)
    assert _table(found, "What differs") == {"optim.lr": {"A": "0.5", "B": "0.01"}}
    rows = _table(found, "Metrics: test, click")
    assert list(rows)[:2] == ["A high/seed-1", "A high/seed-2"] and len(rows) == 8
    assert rows["B low/seed-1"] == {
        **{"auc": "0.6000", "grouped_auc": "0.5000", "logloss": "0.5000", "ne": "0.9000", "calibration": "1.0000"}
    }
    assert _table(found, "Mean and")["test, click: auc"] == {"A": "0.7150 ± 0.0129 (4)", "B": "0.6150 ± 0.0129 (4)"}


def test_a_difference_over_seeds_is_tested(two: Path) -> None:
    found = _report(two)
    (test,) = [of for of in found.tests if of.place == ("test", "click")]
    assert (test.first, test.second, test.metric) == ("A", "B", "auc")
    assert test.found.difference == pytest.approx(-0.1) and test.found.p == pytest.approx(2 / 70)
    assert "B - A, test, click, auc: -0.1000, p = 0.029 (exact permutation test of 4 and 4 seeds): more" in str(
        found.notes
    )
    assert "p is of each comparison by itself: of 2, some may be small by chance." in found.notes


def test_too_few_seeds_are_said(tmp_path: Path) -> None:
    write_run(tmp_path / "a", 0.6)
    write_run(tmp_path / "b", 0.9, optim={"lr": 0.5})
    assert "too few seeds to tell: with 1 and 1 seeds" in _report(tmp_path).notes[0]
    write_run(tmp_path / "c", None, state="failed", optim={"lr": 0.7})
    found = report(find_runs(tmp_path).runs[1:], [], [], compared=True)
    assert found.notes[:1] == ["No test over seeds: it needs finished runs with the metric in two groups."]
    assert found.notes[-1] == "B: not counted, for they have not finished: c"


def test_one_group(tmp_path: Path) -> None:
    write_study(tmp_path, [0.7, 0.8])
    found = _report(tmp_path)
    assert found.notes == ["All recipes are the same but for the seed."] and found.tests == []
    assert not [of for of in found.tables if of[0].startswith("What differs")]


def test_metrics_tasks_and_strata(tmp_path: Path) -> None:
    for name, auc in (("a", 0.6), ("b", 0.7)):
        click = metrics(auc, strata={"forget": metrics(0.5)})
        RunResult({"click": click, "buy": metrics(0.9)}, {}, 3, 1.0).write(write_run(tmp_path / name))
    found = _report(tmp_path, "logloss", "auc")
    columns = list(_table(found, "Runs")["a"])[4:8]
    assert columns == ["test logloss, buy", "test auc, buy", "test logloss, click", "test auc, click"] or columns == [
        *("test logloss, click", "test auc, click", "test logloss, buy", "test auc, buy")
    ]
    assert "Metrics: test/forget, click" in [of[0] for of in found.tables]
    with pytest.raises(ConfigError, match=r"--metric acu: no run has such a metric; did you mean 'auc'\?"):
        _report(tmp_path, "acu")


def test_the_numbers_are_json(two: Path) -> None:
    write_run(two / "nan", float("nan"), optim={"lr": 0.7})
    tree = json.loads(json.dumps(_report(two).numbers(), allow_nan=False))
    assert tree["groups"]["B"] == [f"low/seed-{seed}" for seed in (1, 2, 3, 4)]
    assert tree["differing"] == {"optim.lr": ["0.5", "0.01", "0.7"]}
    run = {of["name"]: of for of in tree["runs"]}["low/seed-2"]
    assert (run["group"], run["samples"], run["metrics"]["test"]["click"]["auc"]) == ("B", 960, 0.61)
    assert run["about"]["commit"] == "abc1234"
    (test,) = [of for of in tree["tests"] if of["split"] == "test"]
    assert test["groups"] == ["A", "B"] and test["first"]["seeds"] == 4 and test["p"] == pytest.approx(2 / 70)
