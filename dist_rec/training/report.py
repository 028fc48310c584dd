"""The page a run leaves behind: `report.md` and the learning curve, made from its `metrics.jsonl`."""

import json
import math
from pathlib import Path
from typing import Any

import yaml
from matplotlib.figure import Figure

from dist_rec.config import Config
from dist_rec.data.errors import DataError, one_line, reading
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.windows import draw_drift, of_windows, windows_table


def write_page(folder: Path, config: Config, test: dict[str, TaskMetrics], facts: dict[str, Any]) -> None:
    """Writes `curve.png` and `report.md`. `facts` are rows of the first table, such as ranks, seed and provenance."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    draw_curve(rows, folder / "curve.png")
    windows = [row for row in rows if row["event"] == "train"]
    facts = {name: _cell(value) for name, value in {**facts, **_feedback_alone(rows), **_speed(windows)}.items()}
    lines = [
        f"# {config.run.name}",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in facts.items()),
    ]
    lines += ["", "## Test", "", *metrics_table(test), "", *against_baselines(config, test)]
    if judged := of_windows(rows):
        draw_drift(judged, folder / "windows.png")
        lines += ["", "## Windows, each judged before it is trained on", "", *windows_table(judged)]
        lines += ["", "![windows](windows.png)"]
    lines += ["", "![learning curve](curve.png)", "", "## Recipe", "", "```yaml", config_yaml(config), "```", ""]
    (folder / "report.md").write_text("\n".join(lines))


def config_yaml(config: Config) -> str:
    """The resolved recipe, as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False).rstrip()


def metrics_table(metrics: dict[str, TaskMetrics]) -> list[str]:
    """Markdown lines: one row per task, and with a filter of events one for each stratum of it."""
    strata = ((f"{task}, {name}", of) for task, m in metrics.items() for name, of in m.strata.items())
    metrics = dict(metrics) | dict(strata)
    own = list(dict.fromkeys(name for m in metrics.values() for name in m.own))
    names = ["task", "AUC", "grouped AUC", "logloss", "NE", "calibration", "candidates", "label rate", *own]
    lines = [f"| {' | '.join(names)} |", "|" + "---|" * len(names)]
    for task, m in metrics.items():
        lines.append(
            f"| {task} | {m.auc:.4f} | {m.grouped_auc:.4f} | {m.logloss:.4f} | {m.ne:.4f} | {m.calibration:.3f} | "
            f"{m.candidates} | {m.label_rate:.3f} |" + "".join(f" {m.own[name]:.4f} |" for name in own)
        )
    return lines


def against_baselines(config: Config, metrics: dict[str, TaskMetrics]) -> list[str]:
    """How far the test AUC is from the popularity baseline to the best reachable AUC, where the data has both."""
    known = baselines(config)
    lines = []
    for task, m in metrics.items():
        if m.best_auc is None or math.isnan(m.best_auc) or "popularity_auc" not in known:
            continue
        popularity = known["popularity_auc"]  # one number, or one per task
        popularity = popularity.get(task) if isinstance(popularity, dict) else popularity
        if popularity is None or m.best_auc <= popularity:  # so few candidates that chance decides
            continue
        way = (m.auc - popularity) / (m.best_auc - popularity)
        lines.append(
            f"{task}: test AUC {m.auc:.4f}, best reachable {m.best_auc:.4f}, popularity {popularity:.4f}: {way:.0%} of "
            "the way"
        )
    return lines


def baselines(config: Config) -> dict[str, Any]:
    """What the data's `stats.json` knows of its test split: nothing where there is none or it is about other things.

    Raises DataError if it cannot be read.
    """
    path = Path(config.data.path) / "stats.json"
    if not path.is_file():
        return {}
    try:
        with reading(path):
            known = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise (
            error if isinstance(error, DataError) else DataError(f"{path}: expected JSON, got: {one_line(error)}")
        ) from None
    test = known.get("test") if isinstance(known, dict) else None
    return test if isinstance(test, dict) else {}


def draw_curve(rows: list[dict[str, Any]], path: Path) -> None:
    """Training loss and validation AUC over steps."""
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    train = [row for row in rows if row["event"] == "train"]
    axes.plot([row["step"] for row in train], [row["loss"] for row in train], color="tab:blue", label="training loss")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    right = axes.twinx()
    valid = [row for row in rows if row["event"] == "valid"]
    for task in dict.fromkeys(row["task"] for row in valid):
        points = [row for row in valid if row["task"] == task]
        right.plot(
            [row["step"] for row in points],
            [row["auc"] for row in points],
            "o-",
            color="tab:orange",
            label=f"validation AUC, {task}",
        )
    right.set_ylabel("AUC")
    handles = [line for ax in (axes, right) for line in ax.get_lines()]
    axes.legend(handles=handles, loc="center right")
    figure.savefig(path, dpi=120)


def _feedback_alone(rows: list[dict[str, Any]]) -> dict[str, str]:
    """What the run found before it started, where there is a teacher."""
    found = {row["task"]: row for row in rows if row["event"] == "feedback_audit"}
    told: dict[str, str] = {}
    for task, row in found.items():
        all_, some = ("unknown" if row[key] is None else f"{row[key]:.3f}" for key in ("auc", "auc_with_feedback"))
        more = f"; {some} where there is some" if row["with_feedback"] < row["candidates"] else ""
        told[f"AUC of feedback alone, {task}"] = all_ + more
    return told


def _speed(windows: list[dict[str, Any]]) -> dict[str, str]:
    """Medians over the log windows but the first, which holds the start-up."""
    settled = windows[1:] or windows
    if not settled:
        return {}

    def median(name: str) -> float:
        values = sorted(row[name] for row in settled)
        return values[len(values) // 2]

    crossed, plain = median("bytes_per_step"), median("plain_bytes_per_step")
    share = crossed / max(plain, 1)
    events, largest = median("events_per_step"), median("largest_events_per_step")
    uneven = f"the largest rank of each step {largest:,.0f} ({largest / max(events, 1):.2f})"
    return {
        "samples/s (candidates)": f"{median('candidates_per_s'):,.0f}",
        "requests/s": f"{median('requests_per_s'):,.0f}",
        "events/s": f"{median('events_per_s'):,.0f}",
        "events per step and rank": f"{events:,.0f}; {uneven}",
        "bytes to the device, per step and rank": f"{crossed:,.0f}; {plain:,.0f} as int64 ({share:.2f})",
    }


def _cell(value: Any) -> str:
    """One cell of a Markdown table: a command line may hold what ends a cell or a line."""
    return " ".join(str(value).split()).replace("|", "\\|")
