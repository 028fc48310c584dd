"""A run as the files of its folder tell of it. What is damaged is said and does not hide the rest."""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from dist_rec.common.strict import ConfigError
from dist_rec.common.yaml_file import read_yaml
from dist_rec.config import Config
from dist_rec.data.older_words import recipe_with_todays_words
from dist_rec.training.about import ABOUT, About
from dist_rec.training.made_with import flat
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.result import RESULT, RunResult

LOG, RECIPE = "metrics.jsonl", "recipe.yaml"
NOT_METRICS = ("event", "step", "task", "window", "candidates", "label_rate", "best_auc")  # of a row of the log
State = Literal["finished", "interrupted", "failed", "not ended"]
Values = dict[str, float]  # name of a metric -> value; only those that are defined


@dataclass(frozen=True)
class Run:
    """- `name`: its folder below the one that was searched; `state`: a run that has not ended runs, or was killed
    - `recipe`: leaves of the resolved recipe by their dotted names; empty where it cannot be read
    - `records`: lines of `metrics.jsonl`
    - `metrics`: (split, task) -> values, of the chosen weights once a run has finished, before that the latest. A
      stratum of a filter is a split of its own, such as `test/forget`
    - `damage`: sentences about files that could not be read whole
    """

    name: str
    folder: Path
    state: State
    about: About | None
    recipe: dict[str, Any]
    records: list[dict[str, Any]]
    metrics: dict[tuple[str, str], Values]
    steps: int
    damage: list[str]

    @property
    def seed(self) -> int | None:
        return self.recipe.get("run.seed")

    @property
    def samples(self) -> float | None:
        """Candidates of all ranks so far; None before the first window of the log."""
        found = samples_by_step(self.records)
        return found[-1][1] if found else None


def is_run(folder: Path) -> bool:
    """Whether a run wrote into the folder itself."""
    return any((folder / name).is_file() for name in (LOG, RESULT, ABOUT))


def read_run(folder: Path, name: str) -> Run:
    """Raises nothing for what is in the files."""
    damage: list[str] = []
    records = list(_records(folder / LOG, damage))
    recipe = _recipe(folder / RECIPE, damage)
    about = result = None
    try:
        about = About.read(folder)
    except (ConfigError, OSError) as error:
        damage.append(_told(error, folder / ABOUT))
    try:
        result = RunResult.read(folder)
    except (ConfigError, OSError) as error:
        damage.append(_told(error, folder / RESULT).partition("; delete it")[0])
    state: State = "not ended" if result is None else "finished"
    if about is not None and about.state != "running":
        state = about.state
    steps = max([row["step"] for row in records], default=0) if result is None else result.steps
    metrics = _latest(records) if result is None else _chosen(result)
    return Run(name, folder, state, about, recipe, records, metrics, steps, damage)


def samples_by_step(records: list[dict[str, Any]]) -> list[tuple[int, float]]:
    """Steps of the log's windows, and the candidates of all ranks up to each. Steps between two windows, as before a
    validation, count as those of the window after them."""
    found: list[tuple[int, float]] = []
    for row in records:
        if row["event"] != "train" or not _is_number(row.get("steps")) or row["steps"] < 1:
            continue
        if not (_is_number(row.get("candidates_per_s")) and _is_number(row.get("seconds"))):
            continue
        before, total = found[-1] if found else (0, 0.0)
        total += (row["step"] - before) * row["candidates_per_s"] * row["seconds"] / row["steps"]
        found.append((row["step"], total))
    return found


def values_of(row: dict[str, Any]) -> Values:
    """The metrics of a row of the log that tells of an evaluation."""
    return {name: value for name, value in row.items() if name not in NOT_METRICS and _is_number(value)}


def _records(path: Path, damage: list[str]) -> Iterator[dict[str, Any]]:
    """Lines that tell an event of a step; half a line at the end is what a killed process leaves."""
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        damage.append(_told(error, path))
        return
    wrong = []
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if isinstance(row, dict) and isinstance(row.get("event"), str) and type(row.get("step")) is int:
            yield row
        elif number < len(lines) or line.endswith(b"\n"):
            wrong.append(number)
    if wrong:
        more = f" and {len(wrong) - 1} other lines" if len(wrong) > 1 else ""
        damage.append(f"{path}: damaged: line {wrong[0]}{more}: expected a JSON object with event and step")


def _recipe(path: Path, damage: list[str]) -> dict[str, Any]:
    """With the defaults of today, so that recipes of two versions compare; as written where that does not go."""
    try:
        tree = read_yaml(path)
    except ConfigError as error:
        damage.append(" ".join(str(error).split()))
        return {}
    try:
        return flat("", Config.model_validate(recipe_with_todays_words(tree)).model_dump(mode="json"))
    except (ValueError, TypeError, AttributeError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        told = str(error) if first is None else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        damage.append(f"{path}: no recipe of this version, compared as it is written: {' '.join(told.split())}")
        return flat("", tree)


def _chosen(result: RunResult) -> dict[tuple[str, str], Values]:
    splits = {"valid": result.valid, "test": result.test}
    return {
        at: of for split, tasks in splits.items() for task, of in tasks.items() for at, of in _strata(split, task, of)
    }


def _strata(split: str, task: str, of: TaskMetrics) -> Iterator[tuple[tuple[str, str], Values]]:
    known = {"auc": of.auc, "grouped_auc": of.grouped_auc, "logloss": of.logloss, "ne": of.ne}
    known |= {"calibration": of.calibration, **of.own}
    yield (split, task), {name: value for name, value in known.items() if math.isfinite(value)}
    for stratum, inside in of.strata.items():
        yield from _strata(f"{split}/{stratum}", task, inside)


def _latest(records: list[dict[str, Any]]) -> dict[tuple[str, str], Values]:
    rows = [row for row in records if isinstance(row.get("task"), str) and is_evaluation(row)]
    return {(row["event"], row["task"]): values_of(row) for row in rows}


def is_evaluation(row: dict[str, Any]) -> bool:
    return row["event"].partition("/")[0] in ("valid", "test")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _told(error: Exception, path: Path) -> str:
    """In one line, with the path."""
    if isinstance(error, OSError):
        return f"{path}: {'no such file' if isinstance(error, FileNotFoundError) else error.strerror or error}"
    return " ".join(str(error).split())
