"""Folders of runs that were never trained, with the files that a run writes."""

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import yaml

from dist_rec.training.about import About
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.result import RunResult
from tests.training.runs import make_config

STARTED = datetime(2026, 11, 1, 12, tzinfo=timezone.utc)
ORIGIN = {"commit": "abc1234", "software": "", "hardware": "", "command": "dist-rec train x.yaml"}
WINDOW = {"event": "train", "lr": 0.1, "steps": 10, "seconds": 2.0, "candidates_per_s": 160.0}  # 32 samples a step


def metrics(auc: float, **more: Any) -> TaskMetrics:
    return TaskMetrics(auc, auc - 0.1, 0.5, 0.9, 1.0, candidates=100, label_rate=0.5, **more)


def log(auc: float) -> list[dict[str, Any]]:
    """30 steps with a validation after 15 and after 30."""

    def valid(step: int, value: float) -> dict[str, Any]:
        numbers = {"auc": value, "logloss": 0.5, "own": None, "candidates": 100, "label_rate": 0.5}
        return {"event": "valid", "step": step, "task": "click", **numbers}

    return [
        {**WINDOW, "step": 10, "loss": 0.7},
        valid(15, auc - 0.2),
        {**WINDOW, "step": 20, "steps": 5, "seconds": 1.0, "loss": 0.6},
        {**WINDOW, "step": 30, "loss": 0.5},
        valid(30, auc - 0.05),
    ]


def write_run(
    folder: Path, auc: float | None = 0.7, *, state: str = "finished", minutes: int = 0, **changes: Any
) -> Path:
    """A run of a recipe with these changes, started so many minutes after the first. Without an `auc` nothing is
    finished."""
    folder.mkdir(parents=True)
    config = make_config(Path("data"), Path("runs"), **changes)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in log(auc or 0.6)))
    started = {"state": state, "started": STARTED + timedelta(minutes=minutes), "ranks": 2}
    About.model_validate({**started, **ORIGIN}).write(folder)
    if auc is not None:
        RunResult({"click": metrics(auc)}, {"click": metrics(auc - 0.05)}, 30, 4.5).write(folder)
    return folder


def write_study(folder: Path, aucs: list[float], **changes: Any) -> Path:
    """One finished run for each seed from 1."""
    for seed, auc in enumerate(aucs, 1):
        run = {**changes.get("run", {}), "seed": seed}
        write_run(folder / f"seed-{seed}", auc, minutes=seed, **{**changes, "run": run})
    return folder
