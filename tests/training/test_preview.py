"""The dry run: it prints recipe, plan and costs, trains nothing, and finds what would stop the run."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dist_rec.common.open_ids import dynamic_rows
from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.validate import DataError
from dist_rec.door import check_run
from dist_rec.training.preview import preview
from dist_rec.training.ranks import Ranks
from tests.training.runs import fresh, make_config

# As data.folds and a long path, both hard on a terminal of 80 columns.
NAME = "a-rather-long-name-of-a-run-" * 4


def _shown(config: Config, ranks: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("COLUMNS", "80")
    preview(config, ranks)
    return capsys.readouterr().out


def test_prints_recipe_plan_and_costs(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {"kind": {"sharding": ["data_parallel"], "dim": 12}, "item": {"sharding": ["row_wise"]}}
    config = make_config(data, tmp_path, embedding={"tables": tables}, run={"name": NAME, "epochs": 2})
    shown = _shown(config, alone, monkeypatch, capsys)
    recipe = shown.split("sharding plan")[0]
    assert Config.model_validate(yaml.safe_load(recipe)) == config, "the resolved recipe can be pasted into a file"
    plan = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.count("│") == 8}
    assert set(plan) == {"item", "kind", "user", "query"}
    assert "row_wise" in plan["item"] and " 8 " in plan["item"]
    assert "data_parallel" in plan["kind"] and " 12 " in plan["kind"]
    model, _ = fresh(config, alone)
    dense = sum(p.numel() for name, p in model.named_parameters() if "ranker" in name)
    assert f"{dense:,}" in shown
    assert f"{(50 + 1000 + 9) * 8:,}" in shown, "sharded rows of item, user and query"
    assert "1 run(s) of 12 steps on 1 rank(s), device cpu" in shown
    assert list(tmp_path.iterdir()) == [], "nothing is written"


def test_folds_and_seeds_are_counted(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = make_config(data, tmp_path, data={"folds": ["train", "valid", "test"]}, run={"seeds": [1, 2]})
    assert "6 run(s) of " in _shown(config, alone, monkeypatch, capsys)


def _preview(config: Config, ranks: Ranks) -> None:
    """As the command does."""
    check_run(config)
    preview(config, ranks)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": {"valid": []}, "run": {"select_best": "auc"}}, r"select_best=auc needs data\.valid"),
        ({"embedding": {"tables": {"itme": {"dim": 8}}}}, r"embedding\.tables\.itme: no field uses this table"),
        ({"model": {"head": {"inputs": ["candidate"]}}}, r"model\.head\.inputs"),
        ({"data": {"path": "/nowhere"}}, r"/nowhere/schema\.yaml: no such file"),
    ],
)
def test_what_would_stop_the_run_stops_the_preview(
    data: Path, tmp_path: Path, alone: Ranks, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        _preview(make_config(data, tmp_path, **changes), alone)


def test_a_missing_training_split_stops_the_preview(data: Path, tmp_path: Path, alone: Ranks) -> None:
    with pytest.raises(DataError, match="/trian: expected a folder of Parquet files"):
        _preview(make_config(data, tmp_path, data={"train": ["trian"]}), alone)


def test_maps_of_dynamic_ids_are_counted(
    data: Path, tmp_path: Path, alone: Ranks, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of 8 numbers and one of state, and twice 20 bytes: the ids with rows, and those that wait for one."""
    table = {"rows": 100_000, "ids": "dynamic", "admission": {"count": 2}}
    config = make_config(data, tmp_path, embedding={"tables": {"item": table}})
    shown = _shown(config, alone, monkeypatch, capsys)
    (line,) = (line for line in shown.splitlines() if line.count("│") == 8 and " item " in line)
    rows = dynamic_rows(100_000)
    assert f"{rows:,}" in line and "row_wise" in line and f"{rows * (9 * 4 + 40) / 2**20:.1f}" in line
