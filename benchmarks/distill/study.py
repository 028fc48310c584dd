"""Does a teacher that has seen feedback help? Arms against label budgets, on data whose mechanism is planted.

Every run is a row of a CSV, which can be stopped and continued."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from benchmarks.distill.data import IMMATURE, write_budget, write_world
from benchmarks.distill.runs import trained
from benchmarks.tables import append, read_rows
from dist_rec.config import Config
from dist_rec.training.ranks import Ranks, start_ranks

BUDGETS = (300, 1_000, 3_000, 10_000, 30_000)
STEPS = {300: 250, 1_000: 350, 3_000: 500, 10_000: 700, 30_000: 1_000}
BATCH = {300: 32, 1_000: 32, 3_000: 32, 10_000: 32, 30_000: 64}  # requests
SEEDS = (1, 2, 3, 4, 5)
SHOWN = (1.0, 0.0)
SHOWN_WORDS = {1.0: "what a server knows, too", 0.0: "only what a server does not know"}
EVALUATIONS = 5

TEACHER: dict[str, Any] = {"weight": 1.0, "teacher_weight": 1.0, "warmup_updates": 50}
BASE = "labels"
ARMS: dict[str, dict[str, Any]] = {
    BASE: {},
    "teacher only": {"distill": TEACHER | {"weight": 0.0}},
    "forward KL, labelled": {"distill": TEACHER | {"rows": "labelled"}},
    "forward KL, all": {"distill": TEACHER},
    "JSD, all": {"distill": TEACHER | {"div_mix": 0.5}},
    "reverse KL, all": {"distill": TEACHER | {"div_mix": 1.0}},
    "shuffled feedback": {"distill": TEACHER, "shuffled": True},
    "fake negatives": {"immature": "fake_negative_weighting"},
    "delay model": {"immature": "delayed_feedback_model"},
    "delay model + KL": {"immature": "delayed_feedback_model", "distill": TEACHER},
    "every label": {"final": True},
}
KINDS: dict[str, dict[str, Any]] = {
    "frozen": {"distill": TEACHER | {"teacher": "frozen", "frozen_at": 250}},
    "ema .05": {"distill": TEACHER | {"teacher": "ema", "teacher_rate": 0.05}},
    "ema .01": {"distill": TEACHER | {"teacher": "ema", "teacher_rate": 0.01}},
    "trust region .5": {"distill": TEACHER | {"teacher": "trust_region", "teacher_rate": 0.5, "frozen_at": 250}},
}
KINDS_AT = (3_000,)


DRAWN = (BASE, "forward KL, labelled", "forward KL, all", "shuffled feedback", "delay model", "every label")
FEW = (BASE, "teacher only", "forward KL, all", "every label")  # where feedback shows nothing that a server knows


@dataclass(frozen=True)
class Cell:
    """What arms have in common: how much feedback shows of what a server knows, labels that are final, the seed."""

    shown: float
    labels: int
    seed: int


@dataclass(frozen=True)
class Row:
    """One run, of `arm`, with so many `labels` that are final; test metrics of the weights with the least validation
    logloss. `audit`: AUC of feedback alone, NaN without a teacher."""

    arm: str
    shown: float
    labels: int
    seed: int
    auc: float
    logloss: float
    calibration: float
    best_auc: float
    audit: float


def run_study(table: Path, worlds: Path, plan: Iterable[Cell]) -> None:
    """Appends the runs that the table lacks. `worlds`: a folder that keeps the generated data."""
    done = {(row.arm, Cell(row.shown, row.labels, row.seed)) for row in read(table)}
    with TemporaryDirectory() as place, start_ranks(_config(Path(place), 0, BUDGETS[0], 0, {}).parallel) as ranks:
        for cell in plan:
            wanted = {name: changes for name, changes in arms_of(cell).items() if (name, cell) not in done}
            if not wanted:
                continue
            world = write_world(worlds / f"shown-{cell.shown:g}-seed-{cell.seed}", cell.seed, cell.shown)
            with TemporaryDirectory() as folder:
                folders = {shuffled: Path(folder) / f"shuffled-{shuffled}" for shuffled in (False, True)}
                moments = [
                    write_budget(world, of, cell.labels, cell.seed, shuffled=shuffled)
                    for shuffled, of in folders.items()
                ]
                for name, changes in wanted.items():
                    data = folders[changes.get("shuffled", False)]
                    config = _config(data, moments[0], cell.labels, cell.seed, changes)
                    append(table, _trained(name, cell, config, ranks))


def arms_of(cell: Cell) -> dict[str, dict[str, Any]]:
    """All arms where feedback shows what a server knows, the first few where it does not, and kinds of teachers at some
    budgets."""
    if not cell.shown:
        return {name: ARMS[name] for name in FEW}
    return ARMS | (KINDS if cell.labels in KINDS_AT else {})


def _config(data: Path, now: int, labels: int, seed: int, changes: dict[str, Any]) -> Config:
    steps = STEPS[labels]
    return Config.model_validate(
        {
            "data": {
                "path": str(data),
                "batch_size": BATCH[labels],
                "eval_batch_size": 256,
                "max_length": 8,
                "workers": 0,
                "shuffle_window": 1 << 20,
                "observed_at": None if changes.get("final") else now,
            },
            "model": {
                "tokens": {"width": 16, "hidden": 32, "max_positions": 8},
                "longer": {"merge": 1, "inner_trans": False, "k": 8, "heads": 2, "self_layers": 0},
                "head": {"hidden": [32], "immature": changes.get("immature", "leave_out")},
            },
            "embedding": {"dim": 8, "lr": 0.05},
            "optim": {"dense_update": "sync", "optimizer": "adamw", "lr": 0.003, "warmup_steps": 20},
            "run": {
                "seed": seed,
                "epochs": 1_000,
                "max_steps": steps,
                "eval_every": steps // EVALUATIONS,
                "select_best": "logloss",
                "log_every": 1_000,
                "out": str(data.parent),
            },
            "checkpoint": {"at_end": False},
            "distill": changes.get("distill"),
        }
    )


def _trained(arm: str, cell: Cell, config: Config, ranks: Ranks) -> Row:
    test, audit = trained(config, ranks)
    scores = (round(of, 5) for of in (test.auc, test.logloss, test.calibration, test.best_auc or 0.0, audit))
    return Row(arm, cell.shown, cell.labels, cell.seed, *scores)


def read(table: Path) -> list[Row]:
    return read_rows(table, Row)


def page(rows: list[Row]) -> Iterator[str]:
    """Lines of the tables."""
    yield (
        f"LONGER on data of `dist-rec data synth --kind delayed`; for every label that is final there are {IMMATURE} "
        "candidates whose label is not, all with feedback. Every arm has the same batches and as many steps, and is "
        "tested with the weights of the least validation logloss. Means over paired seeds; ± is the standard "
        "deviation, of a difference that of the pairs."
    )
    for shown in SHOWN:
        found = [row for row in rows if row.shown == shown]
        if found:
            yield from ("", f"## Feedback that shows {SHOWN_WORDS[shown]}", "")
            yield from _of_world(found)


def _of_world(rows: list[Row]) -> Iterator[str]:
    budgets = sorted({row.labels for row in rows})
    audits = [row.audit for row in rows if row.arm == "forward KL, all" and row.audit == row.audit]
    seeds = {labels: len({row.seed for row in rows if row.labels == labels}) for labels in budgets}
    yield (
        f"Best reachable AUC {mean(row.best_auc for row in rows):.3f}; AUC of feedback alone {min(audits):.2f} to "
        f"{max(audits):.2f}. Seeds: {', '.join(f'{count} with {labels:,} labels' for labels, count in seeds.items())}."
    )
    head = "".join(f" {labels:,} |" for labels in budgets)
    for title, cell in (
        ("AUC", lambda of, _: _spread([row.auc for row in of])),
        ("AUC against labels alone", lambda of, base: _spread([r.auc - base[r.seed].auc for r in of], signed=True)),
        ("Logloss", lambda of, _: f"{mean(row.logloss for row in of):.4f}"),
        ("Calibration", lambda of, _: f"{mean(row.calibration for row in of):.2f}"),
    ):
        yield from ("", f"### {title}", "", f"| arm | labels:{head}", f"|---|{'---|' * len(budgets)}")
        for arm in ARMS:
            cells = []
            for labels in budgets:
                base = {row.seed: row for row in rows if (row.arm, row.labels) == (BASE, labels)}
                of = [row for row in rows if (row.arm, row.labels) == (arm, labels) and row.seed in base]
                cells.append(cell(of, base) if of else "")
            if any(cells):
                yield f"| {arm} | {' | '.join(cells)} |"
    yield from _labels_saved(rows, budgets)
    yield from _kinds(rows)


def _labels_saved(rows: list[Row], budgets: list[int]) -> Iterator[str]:
    """How many labels the arm without a teacher needs for the same AUC, by interpolation between budgets of all
    seeds."""
    seeds = {labels: len({row.seed for row in rows if row.labels == labels}) for labels in budgets}
    budgets = [labels for labels in budgets if seeds[labels] == max(seeds.values())]
    curve = [mean(row.auc for row in rows if (row.arm, row.labels) == (BASE, labels)) for labels in budgets]
    if len(curve) < 2:
        return
    yield from ("", "### Labels that `labels` needs for the same AUC, as a multiple", "")
    yield from (f"| arm | labels:{''.join(f' {labels:,} |' for labels in budgets)}", f"|---|{'---|' * len(budgets)}")
    for arm in ARMS:
        cells = []
        for labels in budgets:
            of = [row.auc for row in rows if (row.arm, row.labels) == (arm, labels)]
            if not of:
                continue
            score = mean(of)
            if score > curve[-1]:
                cells.append(f"> {budgets[-1] / labels:.0f}x")
            else:
                needed = np.exp(np.interp(score, np.maximum.accumulate(curve), np.log(budgets)))
                cells.append(f"{needed / labels:.1f}x" if score >= curve[0] else "-")
        if cells and arm != BASE:
            yield f"| {arm} | {' | '.join(cells)} |"


def _kinds(rows: list[Row]) -> Iterator[str]:
    for labels in KINDS_AT:
        base = {row.seed: row for row in rows if (row.arm, row.labels) == (BASE, labels)}
        kinds = {name: [r for r in rows if (r.arm, r.labels) == (name, labels) and r.seed in base] for name in KINDS}
        if not any(kinds.values()):
            continue
        yield from ("", f"### Whose weights teach, forward KL on all, {labels:,} labels", "")
        yield from ("| teacher | AUC | against labels alone | logloss | calibration |", "|---|---|---|---|---|")
        kinds = {"live": [r for r in rows if (r.arm, r.labels) == ("forward KL, all", labels)]} | kinds
        for name, of in kinds.items():
            if of:
                gains = _spread([row.auc - base[row.seed].auc for row in of], signed=True)
                more = f"{mean(row.logloss for row in of):.4f} | {mean(row.calibration for row in of):.2f}"
                yield f"| {name} | {_spread([row.auc for row in of])} | {gains} | {more} |"


def _spread(values: list[float], *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{mean(values):{sign}.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"


def draw(rows: list[Row]) -> Figure:
    """AUC over labels, of the arms that tell most; a bar is the standard error over seeds."""
    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    for arm in DRAWN:
        found: dict[int, list[float]] = {}
        for row in rows:
            if row.arm == arm and row.shown:
                found.setdefault(row.labels, []).append(row.auc)
        if found:
            budgets = sorted(found)
            errors = [stdev(found[n]) / len(found[n]) ** 0.5 if len(found[n]) > 1 else 0.0 for n in budgets]
            axes.errorbar(budgets, [mean(found[n]) for n in budgets], errors, marker="o", capsize=2, label=arm)
    axes.set(xscale="log", xlabel="labels that are final", ylabel="test AUC")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.tight_layout()
    return figure
