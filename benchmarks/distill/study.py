"""Does a teacher that has seen feedback help? Arms against label budgets, on data whose mechanism is planted.

Every run is a row of a CSV, which can be stopped and continued."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.distill.data import write_budget, write_world
from benchmarks.distill.runs import trained
from benchmarks.ngram.runs import append, read_rows
from dist_rec.config import Config
from dist_rec.training.ranks import Ranks, start_ranks

BUDGETS = (300, 1_000, 3_000, 10_000, 30_000)
STEPS = {300: 250, 1_000: 350, 3_000: 500, 10_000: 700, 30_000: 1_000}
BATCH = {300: 32, 1_000: 32, 3_000: 32, 10_000: 32, 30_000: 64}  # requests
SEEDS = (1, 2, 3, 4, 5)
SHOWN = (1.0, 0.0)
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
KINDS_AT = (1_000, 3_000)


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
