"""Trainings on the same labels in every form, over seeds and changes of the recipe.

One process trains one run after the other with one rank. A row of the CSV is one epoch of one run; the study can be
stopped and continued, and filled by several processes with a file each."""

import csv
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.sharing.forms import forms, make_ml100k, make_synthetic
from dist_rec.config import Config, load_config
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.history import SynthConfig
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog

RECIPES = Path(__file__).resolve().parents[2] / "launch/recipes"
METRICS = ("auc", "grouped_auc", "ne", "calibration", "ece")
FIELDS = ("data", "form", "change", "seed", "epoch", *METRICS, "train_ne", "best_auc", "seconds")
Row = dict[str, str]


@dataclass(frozen=True)
class Data:
    """A data set and its recipe. `levels`: candidates of a request; `labels`: of a step; `changes`: forms that are also
    trained with a change of the recipe, for `epochs_of_changes`."""

    make: Callable[[Path, Path], None]
    recipe: str
    levels: tuple[int, ...]
    labels: int
    epochs: int
    overrides: tuple[str, ...] = ()
    changes: tuple[tuple[str, str], ...] = ()
    epochs_of_changes: int = 1


# Changes of the recipe by name, as factors of rates and as overrides.
ROWS, DENSE = "embedding.lr", "optim.lr"
CHANGES: dict[str, dict[str, float] | tuple[str, ...]] = {
    "": (),
    "row rate x 2": {ROWS: 2.0},
    "dense rate / 2": {DENSE: 0.5},
    "no user id": ("data.leave_out=[user]",),
}

SYNTHETIC = SynthConfig(requests=6000, candidates=16, mean_length=20, max_length=80)


def _synthetic(out: Path, source: Path) -> None:
    make_synthetic(out, SYNTHETIC, DATA["synthetic"].levels, DATA["synthetic"].labels)


def _ml100k(out: Path, source: Path) -> None:
    make_ml100k(out, source / "ml-100k", DATA["ml-100k"].levels, DATA["ml-100k"].labels)


DATA = {
    "synthetic": Data(
        _synthetic,
        "quickstart.yaml",
        levels=(1, 4, 16),
        labels=256,
        epochs=3,
        changes=(
            ("whole users", "row rate x 2"),
            ("whole users", "dense rate / 2"),
            ("whole users", "no user id"),
        ),
    ),
    "ml-100k": Data(
        _ml100k, "ml100k.yaml", levels=(1, 8), labels=256, epochs=2, overrides=("data.max_length=32", "run.seeds=[]")
    ),
}


@dataclass(frozen=True)
class Cell:
    """One run: a form of a data set, a change of its recipe by name, and a seed."""

    data: str
    form: str
    change: str
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        return (self.data, self.form, self.change, str(self.seed))

    def config(self, root: Path) -> Config:
        """The recipe on the dataset folder `root`/`data`."""
        data = DATA[self.data]
        form, folder = forms(data.levels)[self.form], root / self.data
        base, change = load_config(RECIPES / data.recipe), CHANGES[self.change]
        if isinstance(change, dict):
            rates = {ROWS: base.embedding.lr, DENSE: base.optim.lr}
            change = tuple(f"{name}={rates[name] * factor}" for name, factor in change.items())
        steps = steps_per_epoch(folder, data)
        epochs = data.epochs_of_changes if self.change else data.epochs
        return load_config(
            RECIPES / data.recipe,
            [
                *data.overrides,
                *(f"data.path={folder}", f"data.train=[{form.folder}]", "data.valid=[valid,test]", "data.test=[]"),
                *(f"data.batch_size={data.labels // form.candidates}", f"data.shuffle_window={form.window}"),
                *("data.workers=0", "data.eval_batch_size=256", "optim.dense_update=sync"),
                # A constant rate: the first epoch of a longer run is then a run of one epoch.
                "optim.decay=none",
                *(f"run.seed={self.seed}", f"run.epochs={epochs}", f"run.log_every={steps}", "run.eval_every=0"),
                *("run.select_best=none", "checkpoint.at_end=false"),
                "run.metrics=['benchmarks.sharing.calibration_error:CalibrationError']",
                *change,
            ],
        )


def cells(names: list[str], seeds: int) -> list[Cell]:
    """Seeds 1 to `seeds` of every form as the recipe has it, then of one change after the other."""
    of_all = range(1, seeds + 1)
    found = [Cell(name, form, "", seed) for name in names for seed in of_all for form in forms(DATA[name].levels)]
    return found + [Cell(name, *change, seed) for name in names for change in DATA[name].changes for seed in of_all]


def run_study(tables: list[Path], todo: list[Cell], part: tuple[int, int], source: Path) -> None:
    """Appends rows to the first of `tables` for those of `todo` that no table has. `part` (i, n): only every n-th, from
    the i-th. `source`: the folder with the public data sets' folders."""
    done = {tuple(row[name] for name in FIELDS[:4]) for table in tables for row in read(table)}
    todo = [cell for cell in todo[part[0] :: part[1]] if cell.key not in done]
    table = tables[0]
    if not table.exists():
        table.write_text(",".join(FIELDS) + "\n")
    if not todo:
        print(f"{table}: nothing left to run")
        return
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in {cell.data for cell in todo}:
            DATA[name].make(root / name, source)
        with start_ranks(todo[0].config(root).parallel) as ranks, table.open("a") as file:
            for number, cell in enumerate(todo, 1):
                for row in train(cell, ranks, root):
                    csv.DictWriter(file, FIELDS).writerow(row)
                file.flush()
                print(f"{number}/{len(todo)} {row}", flush=True)


def train(cell: Cell, ranks: Ranks, root: Path) -> list[dict[str, Any]]:
    """A row per epoch: metrics on the requests held out, and the normalised entropy of train as its labels were met."""
    with TemporaryDirectory() as out:
        config = cell.config(root)
        with RunLog(Path(out), is_main=True, console=Console(quiet=True)) as log:
            result = train_one(config, ranks, log)
        lines = [json.loads(line) for line in (Path(out) / "metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if line["event"] == "train"]
    held_out = [line for line in lines if line["event"] == "valid"]
    assert len(losses) == len(held_out) == config.run.epochs, "an epoch is logged once and validated once"
    entropy = train_entropy(root / cell.data, DATA[cell.data])
    common = dict(zip(FIELDS[:4], cell.key, strict=True))
    return [
        {
            **common,
            "epoch": epoch,
            **{name: f"{metrics[name]:.5f}" for name in METRICS},
            "train_ne": f"{loss / entropy:.5f}",
            "best_auc": "" if metrics["best_auc"] is None else f"{metrics['best_auc']:.5f}",
            "seconds": f"{result.seconds:.1f}",
        }
        for epoch, (loss, metrics) in enumerate(zip(losses, held_out, strict=True), 1)
    ]


def steps_per_epoch(folder: Path, data: Data) -> int:
    """Of every form: train has whole batches only."""
    rows = sum(pq.read_metadata(path).num_rows for path in (folder / "users").glob("*.parquet"))
    return rows * data.levels[-1] // data.labels


def train_entropy(folder: Path, data: Data) -> float:
    """Of the label rate of train, in nats."""
    label = f"candidate.{load_schema(folder).candidate.labels[0]}"
    rate = float(np.mean(pq.read_table(folder / "users", columns=[label]).column(0).combine_chunks().flatten()))
    return -(rate * math.log(rate) + (1 - rate) * math.log(1 - rate))


def read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open() as file:
        return list(csv.DictReader(file))
