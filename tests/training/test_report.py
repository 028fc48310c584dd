"""The page of a run: its tables, its curve, its recipe, and where it stands between the baselines."""

import dataclasses
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from matplotlib import image

from dist_rec.config import Config
from dist_rec.data.errors import DataError
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.report import against_baselines, baselines, config_yaml, draw_curve, metrics_table, write_page
from tests.training.runs import make_config

TEST = TaskMetrics(0.75, 0.7, 0.5, 0.9, 1.1, candidates=48, label_rate=0.25, best_auc=0.8)
ROWS = [
    {
        "event": "train",
        "step": step,
        "loss": 0.7 - step / 100,
        **dict.fromkeys(("candidates_per_s", "requests_per_s"), speed),
    }
    | {
        "events_per_s": 10 * speed,
        "events_per_step": 1200.0,
        "largest_events_per_step": 1500.0,
        "bytes_per_step": 1000.0,
        "plain_bytes_per_step": 4000.0,
    }
    for step, speed in ((5, 1.0), (10, 5000.0), (15, 7000.0), (20, 6000.0))
] + [{"event": "valid", "step": step, "task": "click", "auc": auc} for step, auc in ((10, None), (20, 0.7))]


def _recipe(tmp_path: Path, baselines: dict[str, Any] | None) -> Config:
    (tmp_path / "data").mkdir()
    if baselines is not None:
        (tmp_path / "data" / "stats.json").write_text(json.dumps(baselines))
    return make_config(tmp_path / "data", tmp_path, run={"name": "a-name"})


def _write(folder: Path, config: Config, rows: list[dict[str, Any]]) -> str:
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_page(folder, config, {"click": TEST}, {"ranks": 2, "steps": 20})
    return (folder / "report.md").read_text()


def test_the_page_says_what_feedback_alone_tells(tmp_path: Path) -> None:
    event = {"event": "feedback_audit", "step": 0, "candidates": 40}
    audits = [
        event | {"task": "a", "auc": 0.78, "auc_with_feedback": 0.78, "with_feedback": 40},
        event | {"task": "b", "auc": None, "auc_with_feedback": None, "with_feedback": 40},
        event | {"task": "c", "auc": 0.7, "auc_with_feedback": 0.9, "with_feedback": 20},
    ]
    page = _write(tmp_path, _recipe(tmp_path, None), audits + ROWS)
    for line in ("a | 0.780 |", "b | unknown |", "c | 0.700; 0.900 where there is some |"):
        assert f"| AUC of feedback alone, {line}\n" in page


def test_the_page_holds_everything(tmp_path: Path) -> None:
    config = _recipe(tmp_path, {"test": {"popularity_auc": 0.6}})
    page = _write(tmp_path, config, ROWS)
    assert page.startswith("# a-name\n")
    for line in (
        "| ranks | 2 |",
        "| samples/s (candidates) | 6,000 |",  # the median without the first window
        "| events/s | 60,000 |",
        "| events per step and rank | 1,200; the largest rank of each step 1,500 (1.25) |",
        "| bytes to the device, per step and rank | 1,000; 4,000 as int64 (0.25) |",
        "| click | 0.7500 | 0.7000 | 0.5000 | 0.9000 | 1.100 | 48 | 0.250 |",
        "click: test AUC 0.7500, best reachable 0.8000, popularity 0.6000: 75% of the way",
        "![learning curve](curve.png)",
    ):
        assert line in page.splitlines()
    recipe = page.split("```yaml\n")[1].split("```")[0]
    assert Config.model_validate(yaml.safe_load(recipe)) == config


def test_a_command_line_stays_in_its_cell(tmp_path: Path) -> None:
    config = _recipe(tmp_path, None)
    (tmp_path / "metrics.jsonl").write_text("")
    write_page(tmp_path, config, {}, {"command": "dist-rec train a.yaml --set 'x=a|b\n'"})
    assert "| command | dist-rec train a.yaml --set 'x=a\\|b ' |" in (tmp_path / "report.md").read_text().splitlines()


def test_every_task_stands_against_its_own_baseline(tmp_path: Path) -> None:
    config = _recipe(tmp_path, {"test": {"popularity_auc": {"click": 0.6, "buy": 0.5}}})
    click, buy = against_baselines(config, {"click": TEST, "buy": dataclasses.replace(TEST, auc=0.65)})
    assert click.endswith("popularity 0.6000: 75% of the way") and buy.endswith("popularity 0.5000: 50% of the way")


def test_the_page_of_a_run_without_a_logged_window(tmp_path: Path) -> None:
    page = _write(tmp_path, _recipe(tmp_path, None), [])
    assert "samples/s" not in page
    assert "of the way" not in page


def test_the_curve_is_a_picture_of_the_numbers(tmp_path: Path) -> None:
    draw_curve(ROWS, tmp_path / "curve.png")
    picture = image.imread(tmp_path / "curve.png")
    assert picture.shape == (480, 840, 4)
    assert picture.min() < 0.5 < picture.max(), "something is drawn"
    draw_curve([row for row in ROWS if row["event"] == "valid"], tmp_path / "other.png")
    assert (image.imread(tmp_path / "other.png") != picture).any()


@pytest.mark.parametrize(
    ("baselines", "best_auc"),
    [
        (None, 0.8),
        ({"test": {}}, 0.8),
        ({"test": {"popularity_auc": 0.6}}, None),
        ({"test": {"popularity_auc": {"buy": 0.6}}}, 0.8),
        ({"test": {"popularity_auc": 0.6}}, float("nan")),
        ({"test": {"popularity_auc": 0.8}}, 0.8),  # no way to go
    ],
)
def test_says_nothing_about_baselines_that_are_not_known(
    tmp_path: Path, baselines: dict[str, Any] | None, best_auc: float | None
) -> None:
    metrics = dataclasses.replace(TEST, best_auc=best_auc)
    assert against_baselines(_recipe(tmp_path, baselines), {"click": metrics}) == []


def test_the_recipe_comes_back_from_its_yaml(tmp_path: Path) -> None:
    config = _recipe(tmp_path, None)
    assert Config.model_validate(yaml.safe_load(config_yaml(config))) == config


def test_a_table_row_per_task() -> None:
    table = metrics_table({"click": TEST, "buy": TEST})
    assert [line.split(" | ")[0] for line in table[2:]] == ["| click", "| buy"]
    assert len({line.count("|") for line in table}) == 1
    with_strata = metrics_table({"click": replace(TEST, strata={"forget": TEST, "retain": TEST}), "buy": TEST})
    first = [line.split(" | ")[0] for line in with_strata[2:]]
    assert first == ["| click", "| buy", "| click, forget", "| click, retain"]


@pytest.mark.parametrize("text", ["[]", "{}", '{"test": []}', '{"test": {}}', '{"train": 1}'])
def test_statistics_of_other_things_are_passed_over(tmp_path: Path, text: str) -> None:
    config = _recipe(tmp_path, None)
    (tmp_path / "data" / "stats.json").write_text(text)
    assert "popularity_auc" not in baselines(config)


@pytest.mark.parametrize("content", [b"", b"\x80", b"{", b"[" * 100_000])
def test_statistics_that_cannot_be_read_are_said(tmp_path: Path, content: bytes) -> None:
    config = _recipe(tmp_path, None)
    (tmp_path / "data" / "stats.json").write_bytes(content)
    with pytest.raises(DataError, match=r"stats.json: expected JSON, got"):
        baselines(config)
