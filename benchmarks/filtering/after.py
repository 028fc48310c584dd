"""What a model still knows of deleted events: a membership test before and after a purge, and the cost to relearn.

The membership test asks whether a labelled candidate of the domain was in the log. Members are candidates of `train`,
the others come from requests of the same users, drawn alike, that no run has read. Its score is the loss: the AUC of
members having the smaller one is 0.5 for a model that cannot tell."""

import csv
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from rich.console import Console
from torch import nn

from benchmarks.filtering.data import MEMBERSHIP, SYNTHETIC, Domain, make_synthetic
from benchmarks.filtering.study import Cell, any_config, config_of, evaluated_model, exact, read, trained
from dist_rec.common.auc import auc
from dist_rec.config import Config
from dist_rec.data.columns import ragged_values
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import write_split
from dist_rec.training.checkpoint import load_checkpoint
from dist_rec.training.evaluate import evaluate_split
from dist_rec.training.pipeline import CountedBatches, make_pipeline, run_through
from dist_rec.training.purge_checkpoint import purge_checkpoint
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.setup import open_run
from dist_rec.training.splits import dataset_schema, evaluation_loader

NEVER = "never"
EPOCH_STEPS, EPOCHS = 20, 10
PURGES = {"": (), "rows of items": ("item", "category"), "and of users": ("item", "category", "user")}
RELEARN_STOPS = (0, 5, 10, 20, 40, 70, 100)
BASE = Cell("after", "synthetic", 32, "none", 0.0, 0.0, EPOCH_STEPS * EPOCHS, 0.0, 0)
MEMBERSHIP_FIELDS = ("action", "purge", "seed", "forget", "retain", "forget_auc", "retain_auc")
RELEARN_FIELDS = ("start", "seed", "step", "forget_loss", "retain_loss", "forget_auc")


def run_membership(table: Path, seeds: int) -> None:
    """Appends rows for the actions and seeds that the table lacks."""
    done = {(row["action"], row["seed"]) for row in read(table)}
    if not table.exists():
        table.write_text(",".join(MEMBERSHIP_FIELDS) + "\n")
    with TemporaryDirectory() as name, table.open("a") as file, start_ranks(any_config().parallel) as ranks:
        writer = csv.DictWriter(file, MEMBERSHIP_FIELDS)
        for seed in range(1, seeds + 1):
            folder = Path(name) / f"{seed}"
            domain = _with_never(folder, seed)
            for action in ("none", "mask", "hide", "keymask", "drop"):
                if (action, str(seed)) in done:
                    continue
                cell = replace(BASE, action=action, seed=seed)
                with trained(cell, ranks, folder, domain) as (config, checkpoint, _):
                    for purge, tables in PURGES.items():
                        row = _membership(config, checkpoint, folder, domain, tables, ranks)
                        writer.writerow({"action": action, "purge": purge, "seed": seed} | row)
                        file.flush()
                        print(action, purge, seed, row, flush=True)


def _with_never(folder: Path, seed: int) -> Domain:
    """Half of the requests of train, chosen at random, go to a split that nothing trains on."""
    domain = make_synthetic(folder, MEMBERSHIP, seed)
    rows, schema = pq.read_table(folder / "train"), load_schema(folder)
    out = np.random.default_rng(seed).random(rows.num_rows) < 0.5
    write_split(folder / "train", rows.filter(~out), schema, force=True)
    write_split(folder / NEVER, rows.filter(out), schema, force=True)
    return domain


def _membership(
    config: Config, checkpoint: Path, folder: Path, domain: Domain, tables: tuple[str, ...], ranks: Ranks
) -> dict[str, str]:
    if tables:
        files = _id_files(folder, domain, tables)
        checkpoint_out = checkpoint.with_name("purged")
        purge_checkpoint(checkpoint, files, out=checkpoint_out)
        checkpoint = checkpoint_out
    model, told_apart = evaluated_model(config, checkpoint, domain, ranks)
    found = {split: _losses(model, told_apart, split, ranks) for split in ("train", NEVER)}
    row = {}
    for stratum, chosen in (("forget", True), ("retain", False)):
        members, others = (found[split][0][found[split][1] == chosen] for split in ("train", NEVER))
        label = np.concatenate([np.ones(len(members)), np.zeros(len(others))])
        row[stratum] = f"{auc(-np.concatenate([members, others]), label):.4f}"
    (metrics,) = evaluate_split(model, told_apart, dataset_schema(told_apart), ["valid", "test"], ranks).values()
    return row | {f"{name}_auc": f"{of.auc:.4f}" for name, of in metrics.strata.items()}


def _id_files(folder: Path, domain: Domain, tables: tuple[str, ...]) -> dict[str, Path]:
    """Ids whose rows are purged: items and categories of the domain, and the users with events of it."""
    rows = pq.read_table(folder / "train")
    category, item = (ragged_values(rows, f"history.{name}") for name in ("category", "item"))
    of_domain = np.isin(category.values, domain.values)
    per_request = np.bincount(np.repeat(np.arange(rows.num_rows), category.lengths), of_domain, rows.num_rows)
    ids = {
        "item": np.unique(item.values[of_domain]),
        "category": np.array(domain.values),
        "user": np.unique(rows.column("user").to_numpy()[per_request > 0]),
    }
    for table in tables:
        np.save(folder / f"{table}.npy", ids[table].astype(np.int64))
    return {table: folder / f"{table}.npy" for table in tables}


@torch.no_grad()
def _losses(model: nn.Module, config: Config, split: str, ranks: Ranks) -> tuple[NDArray, NDArray]:
    """The loss of every candidate of a split, and whether it is of the domain."""
    model.eval()
    losses, chosen = [], []
    for batch in evaluation_loader(config, dataset_schema(config), ranks, [split]):
        batch = batch.to(ranks.device)
        _, (_, logits, _) = model(batch)
        losses.append(nn.functional.binary_cross_entropy_with_logits(logits, batch.labels, reduction="none")[:, 0])
        chosen.append(batch.chosen)
    return torch.cat(losses).double().numpy(), torch.cat(chosen).numpy()


def run_relearning(table: Path, seeds: int) -> None:
    """Trains on with all events after four starts; appends rows for the starts and seeds that the table lacks."""
    done = {(row["start"], row["seed"]) for row in read(table)}
    if not table.exists():
        table.write_text(",".join(RELEARN_FIELDS) + "\n")
    starts = {"no filter": ("none", 0.0), "trained, then purged": ("none", 0.0), "mask": ("mask", 0.0)}
    starts |= {"hide": ("hide", 0.0), "hide from 40 % on": ("hide", 0.4)}
    with TemporaryDirectory() as name, table.open("a") as file, start_ranks(any_config().parallel) as ranks:
        writer = csv.DictWriter(file, RELEARN_FIELDS)
        for seed in range(1, seeds + 1):
            folder = Path(name) / f"{seed}"
            domain = make_synthetic(folder, SYNTHETIC, seed)
            for start, (action, late) in starts.items():
                if (start, str(seed)) in done:
                    continue
                cell = Cell("after", "synthetic", 32, action, 0.0, 0.0, 100, late, seed)
                with trained(cell, ranks, folder, domain) as (_, checkpoint, _):
                    if "purged" in start:
                        purge_checkpoint(checkpoint, _id_files(folder, domain, ("item", "category")))
                    for step, row in _relearn(cell, folder, domain, checkpoint, ranks):
                        writer.writerow({"start": start, "seed": seed, "step": step} | row)
                        file.flush()
                        print(start, seed, step, row, flush=True)


def _relearn(
    cell: Cell, folder: Path, domain: Domain, checkpoint: Path, ranks: Ranks
) -> list[tuple[int, dict[str, str]]]:
    """Metrics after some steps on all events, from the weights of a checkpoint and with a new optimizer."""
    config = config_of(replace(cell, action="none", seed=cell.seed + 100), folder, None)
    told_apart, schema = exact(config, domain), dataset_schema(config)
    found = []
    with TemporaryDirectory() as out, RunLog(Path(out) / "run", is_main=True, console=Console(quiet=True)) as log:
        run = open_run(config, ranks, log, None)
        load_checkpoint(checkpoint, run.model, None, ranks)
        batches = CountedBatches(run.loader, ranks)
        pipeline = make_pipeline(run.model, run.optimizer, config.embedding, ranks.device)
        step = 0
        for stop in RELEARN_STOPS:
            for _ in run_through(pipeline, islice(batches, stop - step)):
                batches.trained()
            step = stop
            metrics = next(iter(evaluate_split(run.model, told_apart, schema, ["valid", "test"], ranks).values()))
            forget, retain = metrics.strata["forget"], metrics.strata["retain"]
            told = {"forget_loss": forget.logloss, "retain_loss": retain.logloss, "forget_auc": forget.auc}
            found.append((stop, {name: f"{value:.5f}" for name, value in told.items()}))
    return found
