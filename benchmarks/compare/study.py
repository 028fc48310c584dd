"""Trainings of the comparison: settings are tuned on the validation split with the same budget for every model, then
tested.

One process trains one run after the other with one rank. Every run is one or more rows (one per task) of a CSV, which
can be stopped and continued, and filled by several processes with a file each."""

import csv
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console

from benchmarks.compare.claims import CLAIMS, changed
from benchmarks.compare.families import Sized, families, matched, measured
from benchmarks.compare.sets import DATA, Budget, Tree
from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog

ROOT = Path(os.environ.get("DIST_REC_DATA", "data"))
SETTINGS: dict[str, Tree] = {
    "AdamW 0.003": {"optimizer": "adamw", "lr": 0.003},
    "Muon 0.003": {"optimizer": "muon", "lr": 0.003},
}
TUNING_SEED, SEEDS = 0, (1, 2, 3)
FIELDS = (
    *("data", "model", "budget", "setting", "seed", "task", "parameters", "flops", "valid_auc"),
    *("auc", "grouped_auc", "logloss", "ne", "best_auc", "steps", "seconds"),
)
Row = dict[str, str]


@dataclass(frozen=True)
class Run:
    """One training: a model of a size (`tree`) on a data set, with one setting of the dense optimizer."""

    data: str
    model: str
    budget: str
    setting: str
    seed: int
    sized: Sized

    @property
    def key(self) -> tuple[str, ...]:
        return (self.data, self.model, self.budget, self.setting, str(self.seed))


def tuning(data: str) -> list[Run]:
    """Every family at matched parameters with every setting, one seed; nothing where another data set's settings are
    taken."""
    if DATA[data].tuned_on:
        return []
    return [
        Run(data, family, "parameters", s, TUNING_SEED, size(data, family, "parameters"))
        for family in families(DATA[data])
        for s in SETTINGS
    ]


def finals(data: str, rows: list[Row]) -> list[Run]:
    """Every family at both budgets with the setting that was best in tuning; once where one size is nearest to both."""
    best, found = chosen(data, rows), []
    for seed, family in product(SEEDS, (family for family in families(DATA[data]) if family in best)):
        sizes = {budget: size(data, family, budget) for budget in DATA[data].budgets}
        if len(sizes) > 1 and sizes["parameters"] == sizes["flops"]:
            sizes = {"both": sizes["flops"]}
        found += [Run(data, family, budget, best[family], seed, sized) for budget, sized in sizes.items()]
    return found


def claims(data: str, rows: list[Row]) -> list[Run]:
    """Variants of one model that a claim of the papers is about, with that model's setting."""
    best, schema, lengths = chosen(data, rows), load(data), mean_lengths(data)
    found = []
    for claim in CLAIMS:
        if data not in claim.data or claim.base not in best:
            continue
        for name, variant in claim.variants.items():
            tree = changed(size(data, claim.base, "parameters").tree, variant)
            sized = measured(tree, DATA[data], schema, lengths)
            found += [Run(data, f"{claim.base}: {name}", "claim", best[claim.base], seed, sized) for seed in SEEDS]
    return found


def chosen(data: str, rows: list[Row]) -> dict[str, str]:
    """Family -> setting with the best validation AUC in tuning."""
    best: dict[str, tuple[float, str]] = {}
    tuned_on = DATA[data].tuned_on or data
    for row in rows:
        if row["data"] == tuned_on and row["seed"] == str(TUNING_SEED) and row["task"] == DATA[data].task:
            best[row["model"]] = max(best.get(row["model"], (0.0, "")), (float(row["valid_auc"]), row["setting"]))
    return {model: setting for model, (_, setting) in best.items()}


def run_all(
    table: Path, wanted: Callable[[list[Row]], list[Run]], part: tuple[int, int], others: Iterable[Path] = ()
) -> None:
    """Appends rows to `table` for every run that neither it nor `others` have; `part` (i, n): every n-th, from the
    i-th."""
    rows = [row for path in (table, *others) for row in read(path)]
    done = {tuple(row[name] for name in ("data", "model", "budget", "setting", "seed")) for row in rows}
    todo = [run for run in wanted(rows)[part[0] :: part[1]] if run.key not in done]
    if not table.exists():
        table.write_text(",".join(FIELDS) + "\n")
    if not todo:
        print(f"{table}: nothing left to run")
        return
    with TemporaryDirectory() as out, start_ranks(config_of(todo[0], out).parallel) as ranks, table.open("a") as file:
        for number, run in enumerate(todo, 1):
            for row in _train(run, ranks, Path(out) / str(number)):
                csv.DictWriter(file, FIELDS).writerow(row)
                print(f"{number}/{len(todo)} {row}", flush=True)
            file.flush()


def read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open() as file:
        return list(csv.DictReader(file))


def config_of(run: Run, out: str) -> Config:
    data = DATA[run.data]
    log = {"log_every": 50, "select_best": "auc", "seed": run.seed, "out": out, "name": run.data}
    return Config.model_validate(
        {
            "data": {**data.data, "path": str(ROOT / data.folder)},
            "model": run.sized.tree,
            "embedding": data.embedding,
            "optim": {"dense_update": "sync", "warmup_steps": 30, **SETTINGS[run.setting]},
            "run": {**data.run, **log},
            "checkpoint": {"at_end": False},
        }
    )


@cache
def load(data: str) -> Schema:
    return load_schema(ROOT / DATA[data].folder, DATA[data].data.get("leave_out", []))


@cache
def mean_lengths(data: str) -> dict[str, int]:
    """Mean events per request and sequence in the training split, cut as the data set is."""
    folder, longest = ROOT / DATA[data].folder, DATA[data].data.get("max_length")
    sums: dict[str, list[int]] = {sequence.name: [] for sequence in load(data).sequences}
    for split in DATA[data].data.get("train", ["train"]):
        for sequence in load(data).sequences:
            column = f"{sequence.name}.{sequence.ids[0].name}"
            for file in sorted((folder / split).glob("*.parquet")):
                lengths = pq.read_table(file, columns=[column]).column(0).combine_chunks().value_lengths().to_pylist()
                sums[sequence.name] += [min(n, longest or n) for n in lengths]
    return {name: round(sum(lengths) / len(lengths)) for name, lengths in sums.items()}


@cache
def size(data: str, family: str, budget: Budget) -> Sized:
    return matched(family, DATA[data], load(data), mean_lengths(data), budget)


def _train(run: Run, ranks: Ranks, folder: Path) -> list[dict[str, Any]]:
    with RunLog(folder, is_main=True, console=Console(quiet=True)) as log:
        result = train_one(config_of(run, str(folder)), ranks, log)
    common = dict(zip(("data", "model", "budget", "setting", "seed"), run.key, strict=True))
    common |= {"parameters": str(run.sized.parameters), "flops": str(run.sized.flops)}
    rows = []
    for task, metrics in result.test.items():
        numbers = {name: f"{getattr(metrics, name):.5f}" for name in ("auc", "grouped_auc", "logloss", "ne")}
        numbers["best_auc"] = "" if metrics.best_auc is None else f"{metrics.best_auc:.5f}"
        numbers |= {
            "valid_auc": f"{result.valid[task].auc:.5f}",
            "steps": str(result.steps),
            "seconds": f"{result.seconds:.1f}",
        }
        rows.append({**common, "task": task, **numbers})
    return rows
