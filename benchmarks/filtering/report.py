"""The page of the study and its plot. Numbers are means over seeds; +- is the standard error of the mean."""

import itertools
import math
import statistics
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from benchmarks.filtering.data import GENRE, NOISE
from benchmarks.filtering.findings import FINDINGS
from benchmarks.filtering.study import ACTIONS, FLIPS, LATE, SHARE, SHARES, SHORTER, STEPS, WIDTH, WIDTHS, Row, read
from dist_rec.common.provenance import provenance_lines

NAMES = {"user": "users removed"} | {name: name.upper() for name in ("mask", "hide", "keymask", "drop")}
NAMES["none"] = "no filter"
LOOKS = {"user": "#636363", "mask": "#e6550d", "hide": "#3182bd", "keymask": "#756bb1", "drop": "#31a354"}


def page(tables: Path, plot: str) -> list[str]:
    """Markdown lines."""
    rows = read(tables / "actions.csv")
    lines = ["# What filtering events does, and what a purge leaves", "", *provenance_lines(), ""]
    for paragraph in FINDINGS:
        is_item = paragraph.startswith("- ")
        lines += [*textwrap.wrap(paragraph, 100, subsequent_indent="  " if is_item else ""), *([] if is_item else [""])]
    lines.append("")
    lines += _frontier(rows, plot)
    lines += _slowdown(rows)
    lines += _noise(rows)
    lines += _relearning(read(tables / "relearning.csv"))
    lines += _membership(read(tables / "membership.csv"))
    lines += _probes(read(tables / "probes.csv"))
    lines += _public(read(tables / "public.csv"))
    return lines


def draw(tables: Path) -> Figure:
    """AUC of the domain over that of the rest, a line per action through the shares."""
    rows = read(tables / "actions.csv")
    figure = Figure(figsize=(7, 4.2), dpi=150)
    axes = figure.add_subplot()
    none = _select(rows, part="compute", width=WIDTH, steps=STEPS)
    axes.plot(_mean(none, "retain_auc"), _mean(none, "forget_auc"), "k*", markersize=11, label=NAMES["none"])
    for action in ACTIONS:
        points = [_select(rows, part="frontier", action=action, share=share) for share in SHARES]
        points = [of for of in points if of]
        x, y = ([_mean(of, name) for of in points] for name in ("retain_auc", "forget_auc"))
        axes.plot(x, y, "o-", color=LOOKS[action], label=NAMES[action], linewidth=1.2, markersize=4)
        for at, of in zip(zip(x, y), points):
            axes.annotate(f"{float(of[0]['share']):.0%}", at, fontsize=6, xytext=(3, 3), textcoords="offset points")
    axes.set_xlabel("AUC of all other candidates (higher: more is kept)")
    axes.set_ylabel("AUC of the domain (lower: more is forgotten)")
    axes.legend(fontsize=7)
    axes.grid(alpha=0.3)
    figure.subplots_adjust(0.1, 0.12, 0.97, 0.97)
    return figure


def _frontier(rows: list[Row], plot: str) -> list[str]:
    lines = [
        f"## Forget against retain, width {WIDTH}",
        "",
        f"![AUC of the domain over AUC of the rest]({plot})",
        "",
        f"A threshold on scores with normal noise of {NOISE} filters the share; *users removed* takes whole",
        "users, those with the largest part of filtered events first. Loss of the true probabilities:",
        f"{_mean(rows, 'best_forget'):.3f} of the domain, {_mean(rows, 'best_retain'):.3f} of the rest.",
        "",
        "| action | filtered | AUC domain | AUC rest | loss domain | loss rest | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    of_none = _select(rows, part="compute", width=WIDTH, steps=STEPS)
    lines.append(_row(NAMES["none"], of_none))
    for action in ACTIONS:
        lines += [_row(NAMES[action], _select(rows, part="frontier", action=action, share=share)) for share in SHARES]
    return [*lines, ""]


def _row(name: str, rows: list[Row]) -> str:
    if not rows:
        return f"| {name} | not run | | | | | 0 |"
    cells = [f"{_mean(rows, 'filtered'):.0%}"]
    cells += [_told(rows, key) for key in ("forget_auc", "retain_auc", "forget_loss", "retain_loss")]
    return f"| {name} | {' | '.join(cells)} | {len(rows)} |"


def _slowdown(rows: list[Row]) -> list[str]:
    lines = [
        f"## Loss-matched slowdown at four widths, {SHARE:.0%} filtered",
        "",
        f"C_f / C_b: the steps of the filtered run ({STEPS}) over the steps that a run without a filter needs,",
        "trained from scratch at the same width with its own schedule, until it has the same loss. Between",
        f"runs of {', '.join(map(str, SHORTER))} and {STEPS} steps the logarithm of the loss above that of the true",
        "probabilities is interpolated over the logarithm of the steps. `>` is a loss above that of the",
        "shortest run, `< 1` one below that of the longest.",
        "",
        "| width | " + " | ".join(f"{NAMES[a]}: domain / rest" for a in ACTIONS) + " | seeds |",
        "| --- |" + " --- |" * (len(ACTIONS) + 1),
    ]
    for width in WIDTHS:
        part = "frontier" if width == WIDTH else "widths"
        cells, seeds = [], []
        for action in ACTIONS:
            of = _select(rows, part=part, width=width, action=action, share=SHARE)
            seeds.append(len(of))
            cells.append(" / ".join(_slow(rows, of, width, stratum) for stratum in ("forget", "retain")) if of else "-")
        lines.append(f"| {width} | {' | '.join(cells)} | {min(seeds)} |")
    return [*lines, ""]


def _slow(rows: list[Row], of: list[Row], width: int, stratum: str) -> str:
    """Of the mean losses of the seeds that both have."""
    seeds = {row["seed"] for row in of}
    curve = []
    for steps in (*SHORTER, STEPS):
        base = [row for row in _select(rows, part="compute", width=width, steps=steps) if row["seed"] in seeds]
        if base:
            curve.append((math.log(steps), math.log(_excess(base, stratum))))
    if not curve:
        return "-"
    wanted = math.log(_excess(of, stratum))
    if wanted >= curve[0][1]:
        return f"> {STEPS / math.exp(curve[0][0]):.0f}"
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if min(y0, y1) <= wanted <= max(y0, y1):
            return f"{STEPS / math.exp(x0 + (x1 - x0) * (wanted - y0) / (y1 - y0)):.1f}"
    return "< 1"


def _excess(rows: list[Row], stratum: str) -> float:
    return _mean(rows, f"{stratum}_loss") - _mean(rows, f"best_{stratum}")


def _noise(rows: list[Row]) -> list[str]:
    lines = [
        "## Label noise and a late start",
        "",
        "Exact labels of the domain, each turned round with a probability, drawn once per event; and the",
        f"filter from {LATE:.0%} of the steps on.",
        "",
        "| action | turned round | AUC domain | AUC rest | seeds |",
        "| --- | --- | --- | --- | --- |",
    ]
    for action in ("mask", "hide", "drop"):
        for flip in FLIPS:
            lines.append(_short(NAMES[action], f"{flip:.0%}", _select(rows, part="noise", action=action, flip=flip)))
        lines.append(_short(NAMES[action], f"0%, from {LATE:.0%} on", _select(rows, part="late", action=action)))
    return [*lines, ""]


def _short(name: str, what: str, of: list[Row]) -> str:
    cells = [_told(of, key) if of else "-" for key in ("forget_auc", "retain_auc")]
    return f"| {name} | {what} | {' | '.join(cells)} | {len(of)} |"


def _relearning(rows: list[Row]) -> list[str]:
    lines = [
        "## The cost to relearn",
        "",
        "Training goes on with all events and a new optimizer. Loss of the domain after so many more steps,",
        "and the steps until it is that of the run without a filter after its first 100.",
        "",
    ]
    steps = sorted({int(row["step"]) for row in rows})
    lines += ["| start | " + " | ".join(map(str, steps)) + " | steps to the loss without a filter | seeds |"]
    lines += ["| --- |" + " --- |" * (len(steps) + 2)]
    wanted = _mean(_select(rows, start="no filter", step=0), "forget_loss") if rows else 0.0
    for start in dict.fromkeys(row["start"] for row in rows):
        curve = [(step, _mean(_select(rows, start=start, step=step), "forget_loss")) for step in steps]
        seeds = len(_select(rows, start=start, step=0))
        reached = "0" if start == "no filter" else _reached(curve, wanted)
        lines.append(f"| {start} | {' | '.join(f'{loss:.3f}' for _, loss in curve)} | {reached} | {seeds} |")
    return [*lines, ""]


def _reached(curve: Sequence[tuple[int, float]], wanted: float) -> str:
    for (x0, y0), (x1, y1) in itertools.pairwise(curve):
        if y1 <= wanted < y0:
            return f"{x0 + (x1 - x0) * (y0 - wanted) / (y0 - y1):.0f}"
    return f"> {curve[-1][0]}"


def _membership(rows: list[Row]) -> list[str]:
    lines = [
        "## What is left of deleted events: a membership test",
        "",
        "Ten epochs of 640 requests, exact labels. Members are candidates of these requests; the others were",
        "drawn alike for the same users and read by no run. AUC of the members having the smaller loss: 0.5",
        "says that nothing can be told. Purged are the rows of the domain's items and categories, then also",
        "of the users with such events.",
        "",
        "| trained with | purged | domain | rest | AUC domain | AUC rest | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for action in ("none", "mask", "hide", "keymask", "drop"):
        for purge in ("", "rows of items", "and of users"):
            of = _select(rows, action=action, purge=purge)
            cells = [_told(of, key) if of else "-" for key in ("forget", "retain", "forget_auc", "retain_auc")]
            lines.append(f"| {NAMES[action]} | {purge or 'nothing'} | {' | '.join(cells)} | {len(of)} |")
    return [*lines, ""]


def _probes(rows: list[Row]) -> list[str]:
    lines = [
        "## Probes",
        "",
        "F1 of single events of the test split against the true domain. *Own* is at the threshold that the",
        "fit chose on its weak labels, *best* at the best threshold, *weak* the F1 on the weak labels of the",
        "users held out.",
        "",
        "| labels of | depth | turned round | own F1 | best F1 | weak F1 | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for part, level, depth, flip in _cells(rows, ("part", "level", "depth", "flip")):
        of = _select(rows, part=part, level=level, depth=depth, flip=flip)
        if part != "sweep":
            cells = [_told(of, key) for key in ("f1", "best_f1", "held_out_f1")]
            lines.append(f"| {level} | {depth} | {float(flip):.0%} | {' | '.join(cells)} | {len(of)} |")
    lines += ["", "A threshold by the share filtered, depth 0: precision / recall / F1.", ""]
    shares = [share for (share,) in _cells(rows, ("share",)) if share]
    lines += ["| labels of | " + " | ".join(f"{float(share):.0%}" for share in shares) + " |"]
    lines += ["| --- |" + " --- |" * len(shares)]
    for (level,) in _cells(rows, ("level",)):
        cells = []
        for share in shares:
            of = _select(rows, part="sweep", level=level, share=share)
            cells.append(" / ".join(f"{_mean(of, key):.2f}" for key in ("precision", "recall", "f1")) if of else "-")
        lines.append(f"| {level} | {' | '.join(cells)} |")
    return [*lines, ""]


def _public(rows: list[Row]) -> list[str]:
    lines = [
        "## Public data",
        "",
        f"ml-100k: the genre {GENRE}, one epoch at width 16. statics2011: every fifth exercise by its number of",
        "answers, 60 steps of folds 3 to 5, tested on fold 1.",
        "",
        "| data | action | filtered | AUC domain | AUC rest | loss domain | loss rest | seeds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for data, action in _cells(rows, ("data", "action")):
        lines.append(f"| {data} {_row(NAMES[action], _select(rows, data=data, action=action))}")
    return lines


def _cells(rows: list[Row], names: Sequence[str]) -> list[tuple[str, ...]]:
    return list(dict.fromkeys(tuple(row[name] for name in names) for row in rows))


def _select(rows: Iterable[Row], **wanted: object) -> list[Row]:
    return [row for row in rows if all(row[name] == str(value) for name, value in wanted.items())]


def _mean(rows: Sequence[Row], name: str) -> float:
    found = [float(row[name]) for row in rows if row[name]]
    return statistics.fmean(found) if found else math.nan


def _told(rows: Sequence[Row], name: str) -> str:
    found = [float(row[name]) for row in rows]
    mean = f"{statistics.fmean(found):.3f}"
    return f"{mean} +- {statistics.stdev(found) / math.sqrt(len(found)):.3f}" if len(found) > 1 else mean
