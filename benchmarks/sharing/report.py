"""The page of the study: every form against the labels apart, and every change of a recipe against the form without it.

Numbers are means over seeds. A difference is taken seed by seed; +- is half of its 95 % interval (Student's t)."""

import math
import statistics
from collections.abc import Callable

from benchmarks.sharing.forms import forms
from benchmarks.sharing.study import DATA, Data, Row
from dist_rec.common.provenance import provenance_lines

T95 = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}  # two-sided, by number of seeds
Curve = dict[tuple[str, str, int, int], Row]  # (form, change, epoch, seed) -> row


def page(rows: list[Row]) -> list[str]:
    """Markdown lines."""
    lines = [
        "# Shared histories and quality",
        "",
        *provenance_lines(),
        "",
        "Means over seeds, standard deviations in brackets. Differences are taken seed by seed; +- is half of the 95 %",
        "interval (Student's t), and bold is a difference whose interval excludes zero.",
    ]
    for name, data in DATA.items():
        of_data = [row for row in rows if row["data"] == name]
        if of_data:
            lines += ["", f"## {name}", "", *_section(name, data, of_data)]
    return lines


def _section(name: str, data: Data, rows: list[Row]) -> list[str]:
    curve = {(row["form"], row["change"], int(row["epoch"]), int(row["seed"])): row for row in rows}
    best = f"; best reachable AUC {float(rows[0]['best_auc']):.4f}" if rows[0]["best_auc"] else ""
    lines = [
        f"Recipe `{data.recipe}`, synchronous, constant rates; {data.labels} labels a step in every form{best}.",
        "",
        "| form | requests a step | epoch | seeds | AUC | grouped AUC | NE | calibration | ECE | NE of train as met |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    names = list(forms(data.levels))
    for form, of in forms(data.levels).items():
        for epoch in _epochs(curve, form, ""):
            requests = data.labels // of.candidates
            lines.append(f"| {form} | {requests} | {epoch} | {_metrics(curve, form, '', epoch)} |")
    lines += [
        "",
        "Differences from the labels apart, seed by seed:",
        "",
        "| form | epoch | AUC | grouped AUC | NE |",
        "|---|---|---|---|---|",
    ]
    for form in names[1:]:
        for epoch in _epochs(curve, form, ""):
            cells = _differences(curve, (form, ""), (names[0], ""), epoch)
            lines.append(f"| {form} | {epoch} | {cells} |")
    return lines + _changes(curve, names)


def _changes(curve: Curve, names: list[str]) -> list[str]:
    changed = list(dict.fromkeys((form, change) for form, change, *_ in curve if change))
    if not changed:
        return []
    lines = [
        "",
        "Changes of the recipe, and their differences from the same form without the change, seed by seed:",
        "",
        "| form | change | epoch | seeds | AUC | grouped AUC | NE | calibration | ECE | NE of train as met "
        "| AUC, difference | grouped AUC, difference | NE, difference |",
        "|" + "---|" * 13,
    ]
    for form, change in sorted(changed, key=lambda key: names.index(key[0])):
        for epoch in _epochs(curve, form, change):
            cells = _differences(curve, (form, change), (form, ""), epoch)
            lines.append(f"| {form} | {change} | {epoch} | {_metrics(curve, form, change, epoch)} | {cells} |")
    return lines


def _epochs(curve: Curve, form: str, change: str) -> list[int]:
    return sorted({key[2] for key in curve if key[:2] == (form, change)})


def _values(curve: Curve, form: str, change: str, epoch: int, metric: str) -> dict[int, float]:
    """By seed."""
    return {key[3]: float(row[metric]) for key, row in sorted(curve.items()) if key[:3] == (form, change, epoch)}


def _metrics(curve: Curve, form: str, change: str, epoch: int) -> str:
    """Cells: number of seeds, then means; AUC and NE with their standard deviation."""

    def of(metric: str, show: Callable[[list[float]], str]) -> str:
        return show(list(_values(curve, form, change, epoch, metric).values()))

    seeds = len(_values(curve, form, change, epoch, "auc"))
    found = [of("auc", _spread), of("grouped_auc", _mean), of("ne", _spread), of("calibration", _mean)]
    return " | ".join([str(seeds), *found, of("ece", _mean), of("train_ne", _mean)])


def _differences(curve: Curve, of: tuple[str, str], base: tuple[str, str], epoch: int) -> str:
    return " | ".join(
        difference(_values(curve, *of, epoch, metric), _values(curve, *base, epoch, metric))
        for metric in ("auc", "grouped_auc", "ne")
    )


def difference(values: dict[int, float], base: dict[int, float]) -> str:
    """Mean difference of the seeds that both have, half of its 95 % interval, and in how many seeds it is above zero;
    bold where the interval excludes zero."""
    found = [values[seed] - base[seed] for seed in sorted(values.keys() & base.keys())]
    if not found:
        return ""
    mean, above = statistics.mean(found), f"{sum(each > 0 for each in found)} of {len(found)} up"
    if len(found) not in T95:
        return f"{mean:+.4f}, {above}"
    half = T95[len(found)] * statistics.stdev(found) / math.sqrt(len(found))
    text = f"{mean:+.4f} +- {half:.4f}"
    return f"**{text}**, {above}" if abs(mean) > half else f"{text}, {above}"


def _mean(values: list[float]) -> str:
    return f"{statistics.mean(values):.4f}"


def _spread(values: list[float]) -> str:
    return f"{_mean(values)} ({statistics.stdev(values):.4f})" if len(values) > 1 else _mean(values)
