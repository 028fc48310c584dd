"""Does one step of delay change what is learned? Whole trainings, synchronous and delayed, over seeds, rates and batch
sizes.

One process trains one run after the other with one rank: the trajectory depends on the mean gradient only, not on how
many ranks it came from. A batch holds as many requests as two ranks of the recipe have together."""

import csv
import json
import math
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from dist_rec.config import Config, load_config
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog

SEEDS = (1, 2, 3, 4, 5)
WINDOW = 10  # steps over which the training loss is averaged to find when it has come down


@dataclass(frozen=True)
class DataSet:
    """A recipe cut to one fold; `warmup` synchronous steps at the recipe's batch, `target` a normalised entropy in
    training."""

    recipe: str
    batch: int
    warmup: int
    target: float
    changes: tuple[str, ...] = ()


DATA = {
    "quickstart": DataSet("launch/recipes/quickstart.yaml", 64, 150, 0.76, ("data.valid=[]", "optim.optimizer=adamw")),
    "statics2011": DataSet(
        "launch/recipes/statics2011.yaml",
        8,
        40,
        0.80,
        (
            *("data.folds=[]", "data.train=[fold2,fold3,fold4,fold5]", "data.valid=[]", "data.test=[fold1]"),
            *("run.select_best=none", "run.seeds=[]", "run.epochs=4"),
        ),
    ),
}

# Every way to update, as changes of the recipe; `{warmup}` is the data set's.
DELAYED = ("optim.dense_update=delayed", "optim.warmup_sync_steps={warmup}")
MODES: dict[str, tuple[str, ...]] = {
    "sync": ("optim.dense_update=sync",),
    "delayed": DELAYED,
    "delayed from the start": ("optim.dense_update=delayed", "optim.warmup_sync_steps=0"),
    "delayed, half the rate": (*DELAYED, "optim.delayed_lr_factor=0.5"),
    "delayed, extrapolated": (*DELAYED, "optim.correction=extrapolate"),
    "delayed, error feedback": (*DELAYED, "optim.correction=error_feedback"),
    "sync, Muon": ("optim.dense_update=sync", "optim.optimizer=muon"),
    "delayed, Muon": (*DELAYED, "optim.optimizer=muon"),
    "delayed from the start, Muon": ("optim.dense_update=delayed", "optim.warmup_sync_steps=0", "optim.optimizer=muon"),
}
CORRECTIONS = ("delayed, half the rate", "delayed, extrapolated", "delayed, error feedback")
FIELDS = ("data", "mode", "rate", "batch", "seed", "auc", "ne", "logloss", "steps", "steps_to_target", "cosine")


@dataclass(frozen=True)
class Cell:
    """One run: `rate` and `batch` are factors of the recipe's."""

    data: str
    mode: str
    rate: float
    batch: int
    seed: int

    def config(self, out: str) -> Config:
        data = DATA[self.data]
        base = load_config(Path(data.recipe), list(data.changes))
        modes = [change.format(warmup=data.warmup // self.batch) for change in MODES[self.mode]]
        warmup_steps = max(base.optim.warmup_steps // self.batch, 1)
        return load_config(
            Path(data.recipe),
            [
                *data.changes,
                *(f"optim.lr={base.optim.lr * self.rate}", f"optim.warmup_steps={warmup_steps}"),
                *(f"data.batch_size={data.batch * self.batch}", f"run.seed={self.seed}", f"run.out={out}"),
                *(f"run.log_every={WINDOW}", "run.eval_every=100000", "checkpoint.at_end=false", "data.workers=1"),
                *modes,
            ],
        )


def cells(data: str) -> list[Cell]:
    """sync, delayed and every correction over all rates and batches; Muon and delay from the start at the recipe's."""
    plan = [
        (mode, rate, batch)
        for batch in (1, 4)
        for rate in (1.0, 0.5, 2.0)
        for mode in ("sync", "delayed", *CORRECTIONS)
    ]
    plan += [(mode, 1.0, 1) for mode in MODES if mode not in ("sync", "delayed", *CORRECTIONS)]
    return [Cell(data, mode, rate, batch, seed) for (mode, rate, batch), seed in product(plan, SEEDS)]


def run_study(data: str, table: Path, part: tuple[int, int]) -> None:
    """Appends a row per run to `table`, but for those that it has already. `part` (i, n): only every n-th, from the
    i-th."""
    done = {(row["mode"], row["rate"], row["batch"], row["seed"]) for row in read(table) if row["data"] == data}
    if not table.exists():
        table.write_text(",".join(FIELDS) + "\n")
    todo = [c for c in cells(data)[part[0] :: part[1]] if (c.mode, str(c.rate), str(c.batch), str(c.seed)) not in done]
    if not todo:
        print(f"{table} has every run of {data}")
        return
    with TemporaryDirectory() as out, start_ranks(todo[0].config(out).parallel) as ranks, table.open("a") as file:
        for number, cell in enumerate(todo):
            row = _train(cell, ranks, Path(out) / str(number))
            csv.DictWriter(file, FIELDS).writerow(row)
            file.flush()
            print(f"{number + 1}/{len(todo)} {row}", flush=True)


def read(table: Path) -> list[dict[str, str]]:
    if not table.exists():
        return []
    with table.open() as file:
        return list(csv.DictReader(file))


def _train(cell: Cell, ranks: Ranks, folder: Path) -> dict[str, Any]:
    config = cell.config(str(folder))
    with RunLog(folder, is_main=True, console=Console(quiet=True)) as log:
        result = train_one(config, ranks, log)
    metrics = next(iter(result.test.values()))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    rows = [row for row in rows if row["event"] == "train"]
    rate = metrics.label_rate
    target = DATA[cell.data].target * -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))
    reached = [row["step"] for row in rows if row["loss"] is not None and row["loss"] <= target]
    cosines = [row["gradient_cosine"] for row in rows[len(rows) // 2 :] if row.get("gradient_cosine") is not None]
    return {
        **{"data": cell.data, "mode": cell.mode, "rate": cell.rate, "batch": cell.batch, "seed": cell.seed},
        **{
            "auc": f"{metrics.auc:.5f}",
            "ne": f"{metrics.ne:.5f}",
            "logloss": f"{metrics.logloss:.5f}",
            "steps": result.steps,
        },
        "steps_to_target": reached[0] if reached else "",
        "cosine": f"{sum(cosines) / len(cosines):.3f}" if cosines else "",
    }
