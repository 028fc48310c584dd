"""The command line from data to evaluation, and what a user sees who got something wrong."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml

from dist_rec import cli, doctor
from dist_rec.config import Config, load_config
from dist_rec.cost.machine import machine_of
from dist_rec.data.schema_file import load_schema
from tests.helpers.command import DistRec
from tests.runs.folders import write_study

TINY = {
    "model": {"tokens": {"width": 8, "hidden": 8}, "longer": {"merge": 2, "k": 2, "heads": 2}, "head": {"hidden": [8]}},
    "data": {"batch_size": 16, "workers": 0},
    "run": {"max_steps": 3, "log_every": 1, "name": "tiny"},
}


@pytest.fixture
def recipe(tmp_path: Path, data: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    tree: dict[str, Any] = {
        **TINY,
        "data": {**TINY["data"], "path": str(data)},
        "run": {**TINY["run"], "out": str(tmp_path)},
    }
    path.write_text(yaml.safe_dump(tree))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made by the command itself."""
    out = tmp_path_factory.mktemp("cli") / "data"
    command = ["data", "synth", str(out), "--requests", "100", "--candidates", "2", "--max-length", "30", "--seed", "5"]
    done = _process(*command)
    assert done.returncode == 0, done.stderr
    assert f"{out}: train 80 requests, valid 10 requests, test 10 requests" in done.stdout
    assert "best reachable 0." in done.stdout and "popularity 0." in done.stdout
    return out


def _process(*arguments: str) -> "subprocess.CompletedProcess[str]":
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "dist_rec.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment)


def test_synth_takes_a_seed(data: Path, tmp_path: Path, dist_rec: DistRec) -> None:
    sizes = ("--requests", "100", "--candidates", "2", "--max-length", "30")
    for seed in ("5", "6"):
        assert dist_rec("data", "synth", tmp_path / seed, *sizes, "--seed", seed).code == 0
    assert (tmp_path / "5" / "stats.json").read_text() == (data / "stats.json").read_text()
    assert (tmp_path / "6" / "stats.json").read_text() != (data / "stats.json").read_text()


def test_synth_of_three_sequences(tmp_path: Path, dist_rec: DistRec) -> None:
    said = dist_rec("data", "synth", tmp_path / "three", "--kind", "three", "--requests", "1000", "--topics", "8")
    assert said.code == 0, said.err
    assert "test AUC of click: best reachable 0." in said.out and "without crossing sequences 0." in said.out
    assert "test AUC of conversion: best reachable 0." in said.out
    schema = load_schema(tmp_path / "three")
    assert [sequence.name for sequence in schema.sequences] == ["clicks", "search", "feed"] and schema.tables[
        "topic"
    ] == 8


def test_synth_of_a_delayed_label(tmp_path: Path, dist_rec: DistRec) -> None:
    command = ("data", "synth", tmp_path / "d", "--kind", "delayed", "--requests", "1000", "--categories", "6")
    said = dist_rec(*command, "--set", "horizon_days=3")
    assert said.code == 0, said.err
    assert "best reachable 0." in said.out and "with feedback 0." in said.out
    schema = load_schema(tmp_path / "d")
    assert schema.candidate.delayed["convert"].horizon == 3 * 86_400 and schema.tables["category"] == 6


def test_synth_keeps_what_it_did_not_make(tmp_path: Path, dist_rec: DistRec) -> None:
    mine = tmp_path / "logs" / "mine.parquet"
    mine.parent.mkdir()
    mine.touch()
    command = ("data", "synth", mine.parent, "--requests", "100", "--max-length", "30")
    said = dist_rec(*command)
    assert said.code == 2 and "did not make, with mine.parquet; name another folder, or say --force" in said.err
    assert mine.exists()
    assert dist_rec(*command, "--force").code == dist_rec(*command).code == 0
    assert not mine.exists()
    (mine.parent / "train" / "notes").touch()
    assert "train/notes was added" in dist_rec(*command).err
    said = dist_rec("data", "synth", tmp_path / "recipe.yaml" / "data", "--requests", "100")
    assert said.code == 0  # no recipe is there yet
    said = dist_rec("data", "synth", mine.parent / "stats.json" / "data", "--requests", "100")
    assert said.code == 2 and said.err.count("\n") == 1 and "stats.json" in said.err


def test_the_home_folder_in_paths_of_data(
    tmp_path: Path, dist_rec: DistRec, monkeypatch: pytest.MonkeyPatch, recipe: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    assert dist_rec("data", "synth", "~/data", "--requests", "100", "--max-length", "30").code == 0
    assert (tmp_path / "home" / "data" / "schema.yaml").is_file() and not Path("~").exists()
    assert dist_rec("data", "inspect", "~/data").code == 0
    assert dist_rec("train", recipe, "--set", "data.path=~/data", "--check-only").code == 0
    for path in ("~/nothing", "~/data"):
        said = dist_rec("data", "import", "movielens", path, "~/out")
        assert said.code == 2 and str(tmp_path / "home") in said.err


def test_synth_keeps_out_of_other_datasets(data: Path, tmp_path: Path, dist_rec: DistRec) -> None:
    (tmp_path / "link").symlink_to(data)
    for place in (data / "train" / "sub", tmp_path / "link" / "sub"):
        said = dist_rec("data", "synth", place, "--requests", "100")
        assert said.code == 2 and "expected a place outside of other datasets, got one inside the" in said.err
        assert not place.exists()


def test_inspect_says_nothing_beside_its_tables(data: Path) -> None:
    """In a process of its own, with what libraries warn of."""
    done = _process("data", "inspect", str(data))
    assert done.returncode == 0 and done.stderr == ""


def test_inspect_shows_splits_and_fields(data: Path, dist_rec: DistRec) -> None:
    said = dist_rec("data", "inspect", data)
    assert said.code == 0
    for word in ("train", "valid", "test", "history.item", "label rate", "duplicates"):
        assert word in said.out


def test_trains_evaluates_and_predicts_with_what_it_trained(
    recipe: Path, data: Path, tmp_path: Path, dist_rec: DistRec
) -> None:
    said = dist_rec("train", recipe, "--set", "model.longer.k=1", "--set", "checkpoint.every_steps=2")
    assert said.code == 0, said.err
    assert "step 3/3  loss 0." in said.out
    assert (tmp_path / "tiny" / "report.md").is_file()
    assert load_config(tmp_path / "tiny" / "recipe.yaml").model.longer.k == 1
    (tested,) = [line for line in said.out.splitlines() if line.startswith("test after step 3, click")]

    checkpoint = tmp_path / "tiny" / "checkpoints" / "last"
    said = dist_rec("eval", tmp_path / "tiny" / "recipe.yaml", "--checkpoint", checkpoint)
    assert said.code == 0, said.err
    (row,) = [line for line in said.out.splitlines() if line.startswith("| click |")]
    assert f"AUC {row.split('|')[2].strip()}" in tested
    said = dist_rec("eval", recipe, "--checkpoint", checkpoint, "--split", "valid")
    assert said.code == 2 and "model.longer.k: 1 when it was saved, 2 now" in said.err
    said = dist_rec("eval", recipe, "--checkpoint", checkpoint, "--split", "valid", "--set", "model.longer.k=1")
    assert said.code == 0 and said.out.startswith("valid of")

    predict = ("--checkpoint", checkpoint, "--data", data / "test", "--out", tmp_path / "out", "--logits")
    said = dist_rec("predict", tmp_path / "tiny" / "recipe.yaml", *predict, "--part-requests", "5")
    assert said.code == 0 and f"{tmp_path / 'out'}: 10 requests, 20 candidates, 1 files" in said.out, said.err
    names = pq.read_schema(tmp_path / "out" / "part-00000.parquet").names
    assert {"user", "time", "candidate.item", "probability.click", "logit.click"} < set(names)
    said = dist_rec("predict", recipe, *predict)
    assert said.code == 2 and "model.longer.k: 1 when it was saved, 2 now" in said.err
    said = dist_rec("predict", tmp_path / "tiny" / "recipe.yaml", *predict, "--part-requests", "5")
    assert said.code == 0 and "finished before; 10 requests" in said.out

    resume = tmp_path / "tiny" / "checkpoints" / "step-2"
    said = dist_rec("train", tmp_path / "tiny" / "recipe.yaml", "--resume", resume)
    assert said.code == 0, said.err
    assert "step 3/3" in said.out and "step 2/3" not in said.out
    assert (tmp_path / "tiny-2" / "report.md").is_file()


def test_a_new_run_starts_from_weights_and_does_not_go_on(recipe: Path, tmp_path: Path, dist_rec: DistRec) -> None:
    assert dist_rec("train", recipe).code == 0
    last = tmp_path / "tiny" / "checkpoints" / "last"
    assert dist_rec("train", recipe, "--init-from", last, "--check-only").code == 0
    said = dist_rec("train", recipe, "--init-from", last)
    assert said.code == 0 and "starts from" in said.out and "after step 3" in said.out
    kept = load_config(tmp_path / "tiny-2" / "recipe.yaml").init
    assert kept is not None and kept.checkpoint == str(last)
    said = dist_rec("train", recipe, "--init-from", last, "--resume", last)
    assert said.code == 2 and "--resume" in said.err
    assert dist_rec("train", recipe, "--init-from", last, "--set", "run.name=warm", "--resume", "auto").code == 0
    assert dist_rec("train", recipe, "--init-from", tmp_path / "nowhere", "--check-only").code == 2


def test_a_dry_run_trains_nothing(recipe: Path, tmp_path: Path, dist_rec: DistRec) -> None:
    said = dist_rec("train", recipe, "--dry-run", "--set", "model.longer.k=3")
    assert said.code == 0, said.err
    resolved = Config.model_validate(yaml.safe_load(said.out.split("sharding plan")[0]))
    assert (resolved.model.longer.k, resolved.model.longer.merge) == (3, 2)
    for word in ("sharding plan", "dense parameters", "MFLOP", "10,000"):
        assert word in said.out
    assert not (tmp_path / "tiny").exists()


def test_a_wrong_key_is_answered_with_the_nearest_right_one(recipe: Path) -> None:
    """In a process of its own: nothing but the message may reach the user."""
    done = _process("train", str(recipe), "--set", "model.longer.mergee=4")
    assert done.returncode == 2
    assert done.stderr == f"error: {recipe}:\n  model.longer.mergee: unknown key; did you mean 'merge'?\n"
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (
            ["train", "{recipe}", "--set", "model.longer.k=-1"],
            "model.longer.k: Input should be greater than or equal to 0, got -1",
        ),
        (["train", "{recipe}", "--set", "data.path=nowhere"], "nowhere/schema.yaml: no such file"),
        (["train", "{recipe}", "--set", "data.train=[trian]"], "trian: expected a folder of Parquet files"),
        (["train", "{recipe}", "--resume", "nowhere"], "nowhere: not a checkpoint, or an incomplete one"),
        (["eval", "{recipe}", "--checkpoint", "nowhere"], "nowhere: not a checkpoint"),
        (
            ["eval", "{recipe}", "--checkpoint", "nowhere", "--split", "tset"],
            "--split tset: expected one of train, valid, test",
        ),
        (["data", "inspect", "nowhere"], "nowhere/schema.yaml: no such file"),
        (
            ["data", "synth", "{recipe}-data", "--requests", "3"],
            "requests: Input should be greater than or equal to 10, got 3",
        ),
        (
            ["data", "synth", "{recipe}-data", "--topics", "8"],
            "dist-rec data synth --kind history:\n  topics: unknown key",
        ),
        (
            ["data", "synth", "{recipe}-data", "--kind", "three", "--categories", "8"],
            "--kind three:\n  categories: unknown key",
        ),
        (
            ["data", "synth", "{recipe}-data", "--kind", "delayed", "--set", "nois=1"],
            "--kind delayed:\n  nois: unknown key; did you mean 'noise'?",
        ),
        (["data", "import", "assist", "nowhere", "out"], "expected assist2009_pid_test1.csv or statics_test1.csv"),
        (["data", "import", "movielens", "nowhere", "out"], "nowhere"),
    ],
)
def test_what_a_user_got_wrong_is_one_message(
    recipe: Path, dist_rec: DistRec, arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(recipe.parent)
    said = dist_rec(*(argument.format(recipe=recipe) for argument in arguments))
    assert said.code == 2
    lines = [line for line in said.err.splitlines() if "[0] " not in line]  # but for the log
    assert lines[0].startswith("error: ")
    assert message in said.err
    assert "Traceback" not in said.err


def test_our_own_mistakes_keep_their_traceback(
    recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("dist_rec.training.study.run_study", broken)
    monkeypatch.setattr(sys, "argv", ["dist-rec", "train", str(recipe)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.parametrize(("fine", "code"), [(True, 0), (False, 1)])
def test_doctors_verdict_is_the_exit_code(
    dist_rec: DistRec, monkeypatch: pytest.MonkeyPatch, fine: bool, code: int
) -> None:
    monkeypatch.setattr(doctor, "run_doctor", lambda: fine)
    assert dist_rec("doctor").code == code


def test_help_names_every_command(dist_rec: DistRec) -> None:
    said = dist_rec("--help")
    assert said.code == 0
    for command in ("train", "eval", "doctor", "data", "preflight", "runs"):
        assert command in said.out


def test_preflight_says_whether_it_fits(dist_rec: DistRec, recipe: Path, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    said = dist_rec("preflight", recipe, "--world-size", "64", "--json", numbers)
    assert said.code == 0, said.err
    assert "nothing is wrong with recipe and data" in said.out and "fits: " in said.out
    assert json.loads(numbers.read_text())["mesh"]["hosts"] == 8
    machine = yaml.safe_load(yaml.safe_dump(machine_of("l4").model_dump(mode="json"))) | {"memory_bytes": 1.1e9}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(machine))
    said = dist_rec("preflight", recipe, "--world-size", "8", "--gpu", tmp_path / "small.yaml", "--set", "run.seed=1")
    assert said.code == 1 and "does not fit: " in said.out


def test_preflight_without_data_and_what_it_refuses(
    dist_rec: DistRec, recipe: Path, tmp_path: Path, data: Path
) -> None:
    (tmp_path / "schema").mkdir()
    shutil.copy(data / "schema.yaml", tmp_path / "schema")
    path = f"data.path={tmp_path / 'schema'}"
    said = dist_rec("preflight", recipe, "--world-size", "8", "--requests", "length=9", "--set", path)
    assert said.code == 0 and "nothing is wrong with recipe and schema" in said.out and "declared: length=9" in said.out
    said = dist_rec("preflight", recipe, "--world-size", "8", "--set", path)
    assert said.code == 2 and "train" in said.err
    for arguments, message in {
        ("--world-size", "0"): "--world-size 0: expected at least 1",
        ("--world-size", "9"): "--world-size 9: expected whole hosts of 8 GPUs",
        ("--world-size", "8", "--gpu", "h300"): "--gpu h300: expected one of h100-80gb",
    }.items():
        said = dist_rec("preflight", recipe, *arguments)
        assert said.code == 2 and message in said.err


def test_runs_are_listed_and_compared(dist_rec: DistRec, tmp_path: Path) -> None:
    for name, auc in (("low", 0.6), ("high", 0.7)):
        write_study(tmp_path / "runs" / name, [auc + seed / 100 for seed in range(4)], optim={"lr": auc})
    (tmp_path / "runs" / "notes").mkdir()
    said = dist_rec("runs", tmp_path / "runs")
    assert said.code == 0 and "low/seed-4" in said.out and "notes: no run; expected metrics.jsonl" in said.out
    numbers, page = tmp_path / "numbers.json", tmp_path / "page"
    said = dist_rec("runs", tmp_path / "runs", "low", "high", "--json", numbers, "--page", page, "--metric", "auc")
    assert said.code == 0 and "optim.lr" in said.out and "p = 0.029" in said.out and "notes" not in said.out
    assert json.loads(numbers.read_text())["groups"]["A"][0] == "low/seed-1" and (page / "runs.html").is_file()
    for arguments, message in {
        (tmp_path / "gone",): "gone: expected a folder with runs",
        (tmp_path / "runs", "lov"): "lov: no such run; did you mean",
        (tmp_path / "runs", "--metric", "acu"): "--metric acu: no run has such a metric; did you mean 'auc'?",
    }.items():
        said = dist_rec("runs", *arguments)
        assert said.code == 2 and said.err.startswith("error: ") and message in said.err


def test_plan_cost_needs_no_gpu(dist_rec: DistRec, recipe: Path) -> None:
    said = dist_rec("plan-cost", recipe, "--gpus", "1,64", "--net", "eth25", "--gpu", "h200", "--set", "data.workers=2")
    assert said.code == 0 and "16 requests" in said.out and "assumptions" in said.out
    said = dist_rec("plan-cost", recipe, "--gpu", "h300")
    assert said.code == 2 and "--gpu h300: expected one of h100-80gb" in said.err
