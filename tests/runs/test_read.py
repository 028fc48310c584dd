"""What the files of a run tell, and what is left of it when some are damaged, lack or are older."""

from pathlib import Path

import pytest
import yaml

from dist_rec.runs.read import is_run, read_run, samples_by_step, values_of
from dist_rec.training.result import RunResult
from tests.runs.folders import STARTED, log, metrics, write_run


def test_a_run_that_has_finished(tmp_path: Path) -> None:
    found = read_run(write_run(tmp_path / "x", 0.75, run={"seed": 7}), "x")
    assert (found.name, found.state, found.steps, found.seed, found.damage) == ("x", "finished", 30, 7, [])
    assert found.about is not None and (found.about.started, found.about.commit) == (STARTED, "abc1234")
    assert found.metrics["test", "click"]["auc"] == 0.75 and found.metrics["valid", "click"]["auc"] == 0.7
    assert found.recipe["model.name"] == "longer" and len(found.records) == 5


def test_samples_count_steps_that_no_window_has() -> None:
    """32 a step; the log has no window of steps 11 to 15, which a validation ended."""
    assert samples_by_step(log(0.7)) == [(10, 320.0), (20, 640.0), (30, 960.0)]
    assert samples_by_step([]) == [] and samples_by_step([{"event": "train", "step": 3, "steps": 0}]) == []


@pytest.mark.parametrize("state", ["interrupted", "failed"])
def test_a_run_that_ended_early_has_its_latest_metrics(tmp_path: Path, state: str) -> None:
    found = read_run(write_run(tmp_path / "x", None, state=state), "x")
    assert (found.state, found.steps) == (state, 30)
    assert found.metrics == {("valid", "click"): {"auc": pytest.approx(0.55), "logloss": 0.5}}


def test_a_run_that_was_killed_has_not_ended_and_half_a_line_is_no_damage(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", None, state="running")
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')
    found = read_run(folder, "x")
    assert (found.state, len(found.records), found.damage) == ("not ended", 5, [])


def test_a_run_of_before_that_does_not_say_when_it_started(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", 0.75)
    (folder / "run.json").unlink()
    found = read_run(folder, "x")
    assert (found.state, found.about, found.damage) == ("finished", None, [])


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("metrics.jsonl", "nonsense\n", "metrics.jsonl: damaged: line 1: expected a JSON object with event and step"),
        ("metrics.jsonl", '{"event": "train"}\n[]\n', "metrics.jsonl: damaged: line 1 and 1 other lines: expected"),
        ("metrics.jsonl", "\x80\n", "metrics.jsonl: damaged: line 1: "),
        ("result.json", "{", "result.json: damaged: "),
        ("run.json", "{", "run.json: damaged: "),
        ("recipe.yaml", "a: [", "recipe.yaml: not valid YAML: "),
        ("recipe.yaml", "model: 3\n", "recipe.yaml: no recipe of this version, compared as it is written: "),
        ("recipe.yaml", "model: {name: gone}\n", "recipe.yaml: no recipe of this version, compared as it is written: "),
    ],
)
def test_damage_is_one_sentence_and_the_rest_is_there(tmp_path: Path, name: str, text: str, told: str) -> None:
    folder = write_run(tmp_path / "x", 0.75)
    (folder / name).write_text(text)
    found = read_run(folder, "x")
    assert len(found.damage) == 1 and told in found.damage[0] and "\n" not in found.damage[0]
    assert found.damage[0].startswith(str(folder)) and "delete it" not in found.damage[0]
    assert found.records or name == "metrics.jsonl"
    assert ("test", "click") in found.metrics or name == "result.json"
    assert found.recipe.get("run.name") == "tiny" or name == "recipe.yaml"


def test_files_that_lack(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x", 0.75)
    for name in ("metrics.jsonl", "recipe.yaml"):
        (folder / name).unlink()
    found = read_run(folder, "x")
    assert found.damage == [f"{folder / name}: no such file" for name in ("metrics.jsonl", "recipe.yaml")]
    assert found.state == "finished" and found.samples is None and found.seed is None


def test_recipes_of_two_versions_have_the_same_settings(tmp_path: Path) -> None:
    now, before = (write_run(tmp_path / name) for name in ("now", "before"))
    tree = yaml.safe_load((before / "recipe.yaml").read_text())
    del tree["run"]["patience"], tree["init"]
    tree["optim"]["compensation"] = 1.0  # of before 0.1.0
    (before / "recipe.yaml").write_text(yaml.safe_dump(tree))
    assert read_run(now, "x").recipe == read_run(before, "x").recipe


def test_strata_and_numbers_that_are_not_defined(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "x")
    whole = metrics(float("nan"), own={"top1": 0.25}, strata={"forget": metrics(0.5)})
    RunResult({"click": whole}, {}, 3, 1.0).write(folder)
    found = read_run(folder, "x").metrics
    assert set(found) == {("test", "click"), ("test/forget", "click")} and found["test/forget", "click"]["auc"] == 0.5
    assert found["test", "click"] == {"logloss": 0.5, "ne": 0.9, "calibration": 1.0, "top1": 0.25}


def test_what_of_a_row_is_a_metric() -> None:
    row = {"event": "valid", "step": 3, "task": "x", "auc": 0.5, "ne": None, "candidates": 9, "ok": True, "best_auc": 1}
    assert values_of(row) == {"auc": 0.5}


@pytest.mark.parametrize("name", ["metrics.jsonl", "result.json", "run.json"])
def test_a_folder_is_a_run_by_what_a_run_writes(tmp_path: Path, name: str) -> None:
    (tmp_path / "recipe.yaml").write_text("")  # a dataset may have one
    assert not is_run(tmp_path)
    (tmp_path / name).write_text("")
    assert is_run(tmp_path)
