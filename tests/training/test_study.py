"""Studies: which runs a recipe asks for, where they write, and what is said about them together."""

import dataclasses
import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_rec.common.provenance import provenance
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.door import check_run
from dist_rec.training.about import About
from dist_rec.training.listener import Ending, Listener
from dist_rec.training.loop import RunResult
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.ranks import Ranks
from dist_rec.training.study import members, new_folder, run_study, summarize
from tests.helpers.ranks import run_ranks
from tests.training.runs import assert_same_weights, losses, make_config, run, saved_weights, these_ranks

FOLDS = ["a", "b", "c", "d"]


def test_a_plain_recipe_is_one_run_in_the_studys_folder(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path)
    (member,) = members(config)
    assert (member.config, member.folder) == (config, "")


def test_every_fold_tests_once_and_validates_once(tmp_path: Path) -> None:
    found = members(make_config(tmp_path, tmp_path, data={"folds": FOLDS}))
    assert [member.folder for member in found] == FOLDS
    assert [member.config.data.test for member in found] == [["a"], ["b"], ["c"], ["d"]]
    assert [member.config.data.valid for member in found] == [["b"], ["c"], ["d"], ["a"]]
    for member in found:
        data = member.config.data
        assert sorted(data.train + data.valid + data.test) == FOLDS, "no fold is used twice or forgotten"
        assert data.folds == []


def test_every_seed_runs_every_fold(tmp_path: Path) -> None:
    found = members(make_config(tmp_path, tmp_path, data={"folds": FOLDS[:3]}, run={"seeds": [7, 8], "seed": 1}))
    assert [member.folder for member in found] == [f"seed-{seed}/{fold}" for seed in (7, 8) for fold in "abc"]
    assert [member.config.run.seed for member in found] == [7, 7, 7, 8, 8, 8]
    assert all(members(member.config) == [type(member)(member.config, "")] for member in found), (
        "a member is a plain recipe"
    )


def _folders(config: Config, times: int) -> list[str]:
    ranks = these_ranks()
    return [str(new_folder(config, ranks)) for _ in range(times)]


def test_all_ranks_write_to_the_same_new_folder(tmp_path: Path) -> None:
    (tmp_path / "tiny-3").mkdir()
    first, second = run_ranks(_folders, 2, make_config(tmp_path, tmp_path), 3)
    assert first == second == [str(tmp_path / name) for name in ("tiny", "tiny-2", "tiny-4")]


def _result(auc: float) -> RunResult:
    return RunResult(
        {"click": TaskMetrics(auc, auc, 0.5, 0.9, 1.0, candidates=4, label_rate=0.5)}, {}, steps=3, seconds=1.5
    )


def test_the_summary_has_mean_and_spread(tmp_path: Path) -> None:
    aucs = {"seed-1/a": 0.70, "seed-1/b": 0.80, "seed-2/a": 0.72, "seed-2/b": 0.86}
    config = make_config(tmp_path, tmp_path, run={"seeds": [1, 2]})
    lines = summarize(tmp_path, config, {name: _result(auc) for name, auc in aucs.items()})
    mean, spread = statistics.mean(aucs.values()), statistics.stdev(aucs.values())
    assert lines[0] == (
        f"click: mean test AUC {mean:.4f} over 4 runs, standard deviation {spread:.4f}; per seed 0.7500, 0.7900, "
        "standard deviation 0.0283"
    )
    assert lines[1].startswith("6 s in all")
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert {name: run["test"]["click"]["auc"] for name, run in kept["runs"].items()} == aucs
    by_seed = kept["tasks"]["click"].pop("mean_auc_by_seed")
    assert kept["tasks"]["click"].pop("stdev_of_seed_means") == pytest.approx(0.04 / 2**0.5)
    assert kept["tasks"] == {"click": {"mean_auc": mean, "stdev_auc": spread}}
    assert by_seed == pytest.approx({"seed-1": 0.75, "seed-2": 0.79})


def test_a_run_without_an_auc_does_not_lose_the_others(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path, run={"seeds": [1, 2]})
    lines = summarize(tmp_path, config, {"seed-1": _result(float("nan")), "seed-2": _result(0.8)})
    assert lines[0].startswith("click: mean test AUC nan over 2 runs, standard deviation nan; per seed nan, 0.8000")
    kept = json.loads((tmp_path / "summary.json").read_text())
    assert kept["tasks"]["click"]["mean_auc"] is None


def test_the_summary_tells_strata_apart(tmp_path: Path) -> None:
    config = make_config(tmp_path, tmp_path, run={"seeds": [1, 2]})
    results = {}
    for seed, (auc, forget) in enumerate(((0.7, 0.5), (0.8, 0.6)), start=1):
        whole = _result(auc)
        strata = {"forget": _result(forget).test["click"], "retain": whole.test["click"]}
        test = {"click": dataclasses.replace(whole.test["click"], strata=strata)}
        results[f"seed-{seed}"] = dataclasses.replace(whole, test=test)
    lines = summarize(tmp_path, config, results)
    first = [
        "click: mean test AUC 0.7500",
        "click, forget: mean test AUC 0.5500",
        "click, retain: mean test AUC 0.7500",
    ]
    assert [line.split(" over ")[0] for line in lines[:-1]] == first
    assert list(json.loads((tmp_path / "summary.json").read_text())["tasks"]) == [
        "click",
        "click, forget",
        "click, retain",
    ]


def test_a_study_of_two_seeds(data: Path, tmp_path: Path, alone: Ranks, capsys: pytest.CaptureFixture[str]) -> None:
    config = make_config(data, tmp_path, run={"seeds": [1, 2], "max_steps": 2})
    folder = run_study(config, alone).folder
    assert folder == tmp_path / "tiny"
    for seed in (1, 2):
        place = folder / f"seed-{seed}"
        assert {path.name for path in place.iterdir()} == {
            *("checkpoints", "curve.png", "metrics.jsonl", "recipe.yaml", "report.md", "result.json", "run.json"),
            "tensorboard",
        }
        about = About.read(place)
        assert about is not None and (about.state, about.ranks) == ("finished", 1)
        assert about.commit == provenance()["commit"]
        table = (place / "report.md").read_text().split("## Test")[0]
        assert f"| seed | {seed} |" in table and "| ranks | 1 |" in table
        for name, value in provenance().items():
            assert f"| {name} | " in table and (name == "date" or value in table), name
        recipe = Config.model_validate(yaml.safe_load((place / "recipe.yaml").read_text()))
        assert (recipe.run.seed, recipe.run.seeds) == (seed, [])
    said = capsys.readouterr().out
    assert f"run 2/2: {folder / 'seed-2'}" in said
    assert "click: mean test AUC" in said
    assert str(folder / "summary.json") in said, "not broken over two lines"


class Tracker(Listener):
    """Writes down what it hears."""

    def start(self, folder: Path, recipe: dict[str, Any]) -> None:
        self.file = folder / "heard.jsonl"
        self(recipe["run"])

    def __call__(self, record: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def end(self, ending: Ending) -> None:
        self({"ending": ending})


def test_listeners_of_a_recipe_hear_each_run(data: Path, tmp_path: Path, alone: Ranks) -> None:
    own = {"listeners": [f"{Tracker.__module__}:Tracker"], "seeds": [1, 2], "max_steps": 2}
    config = make_config(data, tmp_path, run=own)
    check_run(config)
    folder = run_study(config, alone).folder
    for seed in (1, 2):
        first, *records, last = [
            json.loads(line) for line in (folder / f"seed-{seed}" / "heard.jsonl").read_text().splitlines()
        ]
        assert first["seed"] == seed and last == {"ending": "finished"}
        written = (folder / f"seed-{seed}" / "metrics.jsonl").read_text().splitlines()
        assert records == [json.loads(line) for line in written] and len(records) >= 4


def test_a_run_that_fails_says_so_in_its_folder(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, run={"max_steps": 2})
    (data / "valid").rename(data / "gone")
    try:
        with pytest.raises(DataError):
            run_study(config, alone)
    finally:
        (data / "gone").rename(data / "valid")
    about = About.read(tmp_path / "tiny")
    assert about is not None and about.state == "failed" and about.told.startswith("DataError: ")


def test_a_single_run_needs_no_summary(
    data: Path, tmp_path: Path, alone: Ranks, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run_study(make_config(data, tmp_path, run={"max_steps": 1}), alone).folder
    assert (folder / "report.md").is_file()
    assert not (folder / "summary.json").exists()
    assert "mean test AUC" not in capsys.readouterr().out


def test_a_run_with_an_init_goes_on_from_its_own_checkpoint(data: Path, tmp_path: Path, alone: Ranks) -> None:
    """What it started from is not read again, and may be gone; before the first checkpoint it starts there anew."""
    run(make_config(data, tmp_path), alone, "before")
    init = {"init": {"checkpoint": str(tmp_path / "before" / "checkpoints" / "last")}}
    config = make_config(data, tmp_path, checkpoint={"every_steps": 2}, **init)
    place = run_study(config, alone, resume="auto").folder
    expected, told = saved_weights(config, "tiny"), losses(config, "tiny")

    (place / "result.json").unlink()  # killed after the first checkpoint
    for name in ("step-4", "step-6", "last"):
        shutil.rmtree(place / "checkpoints" / name)
    shutil.rmtree(tmp_path / "before")
    check_run(config, "auto")
    run_study(config, alone, resume="auto")
    assert_same_weights(saved_weights(config, "tiny"), expected)
    assert losses(config, "tiny") == told

    (place / "result.json").unlink()  # and before it
    shutil.rmtree(place / "checkpoints")
    with pytest.raises(ConfigError, match=r"before/checkpoints/last: not a checkpoint"):
        check_run(config, "auto")


def test_one_checkpoint_is_not_the_start_of_several_runs(data: Path, tmp_path: Path, alone: Ranks) -> None:
    config = make_config(data, tmp_path, run={"seeds": [1, 2]})
    with pytest.raises(ConfigError, match=r"a checkpoint belongs to one run, but data\.folds and run\.seeds make 2"):
        run_study(config, alone, resume=tmp_path / "step-1")
    assert not (tmp_path / "tiny").exists()
