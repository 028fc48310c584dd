"""Progressive validation: the windows of a log are trained on in order of time, each judged before.

This is how production judges: every score is of data that come after all that was learned (Gama, Sebastiao, Rodrigues,
On evaluating stream learning algorithms, 2013, call it prequential)."""

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

EVENT = "window"  # of the rows of metrics.jsonl
DRAWN = {"auc": "AUC", "ne": "NE", "calibration": "calibration", "label_rate": "label rate"}


def of_windows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of windows that were judged, one per window and task."""
    return [row for row in rows if row["event"] == EVENT]


def windows_table(rows: list[dict[str, Any]]) -> list[str]:
    """Markdown lines: a row per window and task, and the mean over windows of each task."""
    lines = [
        "| window | task | AUC | grouped AUC | logloss | NE | calibration | candidates | label rate |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    numbers = {"auc": ".4f", "grouped_auc": ".4f", "logloss": ".4f", "ne": ".4f", "calibration": ".3f"}
    for row in rows:
        cells = [_told(row[name], form) for name, form in numbers.items()]
        cells += [f"{row['candidates']}", _told(row["label_rate"], ".3f")]
        lines.append(f"| {row['window']} | {row['task']} | {' | '.join(cells)} |")
    for task in dict.fromkeys(row["task"] for row in rows):
        of_task = [row for row in rows if row["task"] == task]
        cells = [_told(_mean([row[name] for row in of_task]), form) for name, form in numbers.items()]
        cells += [
            f"{sum(row['candidates'] for row in of_task)}",
            _told(_mean([r["label_rate"] for r in of_task]), ".3f"),
        ]
        judged = sum(row["logloss"] is not None for row in of_task)  # of others no label was final
        lines.append(f"| mean of {judged} | {task} | {' | '.join(cells)} |")
    return lines


def draw_drift(rows: list[dict[str, Any]], path: Path) -> None:
    """AUC, NE, calibration and label rate over windows, a line per task."""
    figure = Figure(figsize=(8, 6), layout="constrained")
    names = list(dict.fromkeys(row["window"] for row in rows))
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, DRAWN.items(), strict=True):
        for task in dict.fromkeys(row["task"] for row in rows):
            points = [row for row in rows if row["task"] == task]
            known = [(names.index(row["window"]), row[name]) for row in points if row[name] is not None]
            axes.plot([place for place, _ in known], [value for _, value in known], "o-", label=task)
        axes.set_title(title)
        step = max(1, len(names) // 6)
        axes.set_xticks(range(0, len(names), step), names[::step], rotation=30, ha="right")
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _told(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
