"""Curves of several runs: training loss and the metrics of validations, over steps and over samples."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dist_rec.runs.groups import Group
from dist_rec.runs.read import Run, is_evaluation, samples_by_step, values_of

MOST_NAMES = 10  # of runs in a legend; above, groups are named
Points = list[tuple[int, float]]  # step, value


def draw(groups: Sequence[Group], metrics: Sequence[str]) -> Figure:
    """A row of panels for the loss and for each metric of each task, a line per run, a colour per group, or per run
    where there is one group."""
    runs = [(run, group.letter) for group in groups for run in group.runs]
    tasks = dict.fromkeys(row["task"] for run, _ in runs for row in run.records if _is_validation(row))
    rows: list[tuple[str, str, str]] = [("training loss", "", "loss")]
    rows += [(f"validation {metric}, {task}", task, metric) for metric in metrics for task in tasks]
    figure = Figure(figsize=(12, 3.4 * len(rows)), layout="constrained")
    panels = figure.subplots(len(rows), 2, squeeze=False, sharey="row")
    for (title, task, metric), (left, right) in zip(rows, panels, strict=True):
        for number, (run, letter) in enumerate(runs):
            place = [group.letter for group in groups].index(letter) if len(groups) > 1 else number
            look: dict[str, Any] = {"color": f"C{place % 10}", "label": _label(runs, run, letter), "alpha": 0.8}
            points = _losses(run) if not task else _metric(run, task, metric)
            _line(left, points, "o-" if task else "-", look)
            _line(right, _over_samples(run, points), "o-" if task else "-", look)
        left.set_title(title, loc="left")
        left.set_xlabel("steps")
        right.set_xlabel("samples")
    handles, labels = figure.axes[0].get_legend_handles_labels()
    by_label = dict(zip(labels, handles, strict=True))
    if by_label:
        figure.axes[0].legend(list(by_label.values()), list(by_label))
    return figure


def _line(axes: Axes, points: Sequence[tuple[float, float]], form: str, look: dict[str, Any]) -> None:
    if points:
        axes.plot([x for x, _ in points], [y for _, y in points], form, markersize=3, **look)


def _label(runs: Sequence[tuple[Run, str]], run: Run, letter: str) -> str:
    return letter if len(runs) > MOST_NAMES else f"{letter} {run.name}"


def _losses(run: Run) -> Points:
    rows = (row for row in run.records if row["event"] == "train")
    return [(row["step"], row["loss"]) for row in rows if isinstance(row.get("loss"), int | float)]


def _metric(run: Run, task: str, metric: str) -> Points:
    rows = [row for row in run.records if _is_validation(row) and row["task"] == task]
    return [(row["step"], values[metric]) for row in rows if metric in (values := values_of(row))]


def _is_validation(row: dict[str, Any]) -> bool:
    return row["event"] == "valid" and is_evaluation(row) and isinstance(row.get("task"), str)


def _over_samples(run: Run, points: Points) -> list[tuple[float, float]]:
    """Between two windows of the log samples grow evenly; what is after the last one is left out."""
    known = [(0, 0.0), *samples_by_step(run.records)]
    steps, samples = zip(*known, strict=True)
    inside = [(step, value) for step, value in points if step <= steps[-1]]
    return [(float(np.interp(step, steps, samples)), value) for step, value in inside]
