"""Runs side by side: one table of all, and, where they are compared, what differs, their metrics and their seeds."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dist_rec.common.strict import ConfigError, nearest
from dist_rec.data.page import TableOf
from dist_rec.runs.groups import Group, differing, groups_of
from dist_rec.runs.read import Run
from dist_rec.runs.significance import Compared, Spread, compare

UNKNOWN = "-"
METRIC = "auc"  # shown where nothing is said
Place = tuple[str, str]  # split, task


@dataclass(frozen=True)
class Test:
    """A metric of one split and task: the group `second` against `first`, by their letters."""

    place: Place
    metric: str
    first: str
    second: str
    found: Compared


@dataclass(frozen=True)
class Report:
    """`metrics` that are shown; `tests` are empty unless runs are compared; `warnings` about files and folders."""

    runs: list[Run]
    groups: list[Group]
    metrics: list[str]
    tests: list[Test]
    tables: list[TableOf]
    notes: list[str]
    warnings: list[str]

    def numbers(self) -> dict[str, Any]:
        """For a JSON file."""
        letters = {run.name: group.letter for group in self.groups for run in group.runs}
        return {
            "runs": [{"group": letters[run.name], **_numbers(run)} for run in self.runs],
            "groups": {group.letter: [run.name for run in group.runs] for group in self.groups},
            "differing": differing(self.groups),
            "tests": [
                {"split": of.place[0], "task": of.place[1], "metric": of.metric}
                | {"groups": [of.first, of.second], **asdict(of.found)}
                for of in self.tests
            ],
            "warnings": self.warnings,
        }


def report(runs: Sequence[Run], others: Sequence[str], metrics: Sequence[str], *, compared: bool) -> Report:
    """`others`: what was found beside the runs. Raises ConfigError for a metric that no run has."""
    runs, metrics = list(runs), list(metrics) or [METRIC]
    known = sorted({name for run in runs for values in run.metrics.values() for name in values})
    for metric in metrics:
        if known and metric not in known:
            raise ConfigError(f"--metric {metric}: no run has such a metric; {nearest(metric, known)}")
    groups = groups_of(runs)
    tables, tests, notes = [_listed(groups, runs, metrics)], [], []
    if compared:
        tables += [_differing(groups)] if len(groups) > 1 else []
        tables += [_side_by_side(groups, runs, place) for place in _places(runs)]
        tables += [_seeds(groups, runs, metrics)] if known else []
        tests = _tests(groups, runs, metrics)
        notes = _notes(groups, tests)
    warnings = [line for run in runs for line in run.damage] + list(others)
    return Report(runs, groups, metrics, tests, tables, notes, warnings)


def title(place: Place) -> str:
    return f"{place[0]}, {place[1]}"


def _listed(groups: Sequence[Group], runs: Sequence[Run], metrics: Sequence[str]) -> TableOf:
    """Metrics of whole splits, not of strata."""
    places = [place for place in _places(runs) if "/" not in place[0]]
    several = len({task for _, task in places}) > 1
    columns = [(place, metric) for place in places for metric in metrics]
    names = [f"{split} {metric}{f', {task}' if several else ''}" for (split, task), metric in columns]
    letters = {run.name: group.letter for group in groups for run in group.runs}
    rows = [
        (
            run.name,
            UNKNOWN if run.about is None else f"{run.about.started:%Y-%m-%d %H:%M}",
            run.state,
            f"{run.steps:,}",
            UNKNOWN if run.samples is None else f"{run.samples:,.0f}",
            *(_number(run.metrics.get(place, {}).get(metric)) for place, metric in columns),
            UNKNOWN if run.about is None else run.about.commit,
            UNKNOWN if run.seed is None else str(run.seed),
            f"{letters[run.name]} {run.recipe.get('model.name', '')}".strip(),
        )
        for run in runs
    ]
    header = ("run", "started", "state", "steps", "samples", *names, "commit", "seed", "recipe")
    return "Runs; a letter for recipes that differ in the seed alone", header, rows


def _differing(groups: Sequence[Group]) -> TableOf:
    rows = [(name, *values) for name, values in differing(groups).items()]
    return "What differs between the recipes", ("setting", *(group.letter for group in groups)), rows


def _side_by_side(groups: Sequence[Group], runs: Sequence[Run], place: Place) -> TableOf:
    names = list(dict.fromkeys(name for run in runs for name in run.metrics.get(place, {})))
    rows = [
        (f"{group.letter} {run.name}", *(_number(run.metrics.get(place, {}).get(name)) for name in names))
        for group in groups
        for run in group.runs
    ]
    return f"Metrics: {title(place)}", ("run", *names), rows


def _seeds(groups: Sequence[Group], runs: Sequence[Run], metrics: Sequence[str]) -> TableOf:
    rows = [
        (f"{title(place)}: {metric}", *(_spread(list(group.values(place, metric).values())) for group in groups))
        for place in _places(runs)
        for metric in metrics
    ]
    return "Mean and standard deviation over seeds", ("metric", *(group.letter for group in groups)), rows


def _tests(groups: Sequence[Group], runs: Sequence[Run], metrics: Sequence[str]) -> list[Test]:
    """Every other group against the first."""
    found = []
    for place in _places(runs):
        for metric in metrics:
            first = list(groups[0].values(place, metric).values())
            for group in groups[1:]:
                second = list(group.values(place, metric).values())
                if first and second:
                    found.append(Test(place, metric, groups[0].letter, group.letter, compare(first, second)))
    return found


def _notes(groups: Sequence[Group], tests: Sequence[Test]) -> list[str]:
    notes = [f"{of.second} - {of.first}, {title(of.place)}, {of.metric}: {of.found.told()}" for of in tests]
    if len(groups) == 1:
        notes.append("All recipes are the same but for the seed.")
    elif not tests:
        notes.append("No test over seeds: it needs finished runs with the metric in two groups.")
    if len(tests) > 1:
        notes.append(f"p is of each comparison by itself: of {len(tests)}, some may be small by chance.")
    return notes + [note for group in groups for note in group.notes()]


def _places(runs: Sequence[Run]) -> list[Place]:
    """Validation before test, each before its strata."""
    found = dict.fromkeys(place for run in runs for place in run.metrics)
    return sorted(found, key=lambda place: (not place[0].startswith("valid"), place[0]))


def _spread(values: list[float]) -> str:
    if not values:
        return UNKNOWN
    of = Spread.of(values)
    deviation = "" if of.deviation is None else f" ± {of.deviation:.4f}"
    return f"{of.mean:.4f}{deviation} ({of.seeds})"


def _number(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.4f}"


def _numbers(run: Run) -> dict[str, Any]:
    about = None if run.about is None else run.about.model_dump(mode="json")
    metrics: dict[str, dict[str, Any]] = {}
    for (split, task), values in run.metrics.items():
        metrics.setdefault(split, {})[task] = values
    samples = None if run.samples is None or not math.isfinite(run.samples) else round(run.samples)
    return {
        **{"name": run.name, "folder": str(run.folder), "state": run.state, "seed": run.seed},
        **{"steps": run.steps, "samples": samples, "metrics": metrics, "about": about, "damage": run.damage},
    }
