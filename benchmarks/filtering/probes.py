"""Probes from labels of events, sessions and users, from noisy labels, and at thresholds by share.

F1 is that of single events of a split that no probe was fitted on, against the true domain."""

import csv
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.filtering.data import SYNTHETIC, Domain, labels_of, make_synthetic
from benchmarks.filtering.policy import NoisyOptions
from benchmarks.filtering.study import FLIPS, read
from dist_rec.common.logistic import best_f1, f1_at, threshold_of_share
from dist_rec.data.columns import list_column, ragged_values
from dist_rec.data.schema_file import load_schema
from dist_rec.probe.fit import fit_probe
from dist_rec.probe.labels import Level, WeakLabels

FIELDS = ("part", "level", "depth", "flip", "share", "seed", "f1", "best_f1", "precision", "recall", "held_out_f1")
USER_SHARE = 0.4  # of the domain among a user's events, from which the user has the label
SWEEP = (0.03, 0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5)
NOISY = "history.noisy"


def run_probes(table: Path, seeds: int) -> None:
    """Appends rows for the seeds that the table lacks."""
    done = {row["seed"] for row in read(table)}
    if not table.exists():
        table.write_text(",".join(FIELDS) + "\n")
    with TemporaryDirectory() as name, table.open("a") as file:
        for seed in range(1, seeds + 1):
            if str(seed) in done:
                continue
            folder = Path(name) / f"{seed}"
            domain = make_synthetic(folder, SYNTHETIC, seed)
            for row in _rows(folder, domain, seed):
                csv.DictWriter(file, FIELDS).writerow(row)
                file.flush()
                print(row, flush=True)


def _rows(folder: Path, domain: Domain, seed: int) -> Iterator[dict[str, object]]:
    levels: tuple[Level, ...] = ("event", "session", "user")
    for level in levels:
        for depth in (0, 1, 2) if seed == 1 else (0,):
            yield from _probe("level", folder, domain, seed, level, depth, 0.0)
    for flip in FLIPS[1:]:
        _write_noisy(folder, domain, flip, seed)
        yield from _probe("noise", folder, domain, seed, "event", 0, flip)


def _probe(
    part: str, folder: Path, domain: Domain, seed: int, level: Level, depth: int, flip: float
) -> Iterator[dict[str, object]]:
    source = f"category={folder / 'forget_categories.txt'}"
    if level == "user":
        source = str(_users(folder, domain))
    elif flip:
        source = NOISY
    probe = fit_probe(folder, WeakLabels(source, level), depth=depth, seed=seed)
    table, schema = pq.read_table(folder / "test").combine_chunks(), load_schema(folder)
    scores, _ = probe.score(table, schema, candidates=False)
    truth = np.isin(ragged_values(table, f"history.{domain.field}").values, domain.values)
    common = {"part": part, "level": level, "depth": depth, "flip": flip, "share": "", "seed": seed}
    common |= {"best_f1": f"{best_f1(scores, truth)[1]:.4f}", "held_out_f1": f"{probe.facts.found['best_f1']:.4f}"}
    yield common | _counted(scores, truth, probe.facts.threshold)
    if part == "level" and depth == 0:
        for share in SWEEP:
            yield (
                common | {"part": "sweep", "share": share} | _counted(scores, truth, threshold_of_share(scores, share))
            )


def _counted(scores: NDArray, truth: NDArray, threshold: float) -> dict[str, str]:
    found = scores > threshold
    hits = (found & truth).sum()
    counted = {
        "f1": f1_at(scores, truth, threshold),
        "precision": hits / max(found.sum(), 1),
        "recall": hits / truth.sum(),
    }
    return {name: f"{value:.4f}" for name, value in counted.items()}


def _users(folder: Path, domain: Domain) -> Path:
    user, of_domain, _ = labels_of(folder, domain, NoisyOptions(domain=domain.values))
    keys, of = np.unique(user, return_inverse=True)
    np.save(folder / "users.npy", keys[np.bincount(of, of_domain) / np.bincount(of) > USER_SHARE])
    return folder / "users.npy"


def _write_noisy(folder: Path, domain: Domain, flip: float, seed: int) -> None:
    """A column of labels that are turned round with the probability `flip`, an event everywhere alike."""
    _, _, noisy = labels_of(folder, domain, NoisyOptions(domain=domain.values, flip=flip, seed=seed))
    done = 0
    for path in sorted((folder / "train").glob("*.parquet")):
        table = pq.read_table(path)
        table = table.drop_columns(NOISY) if NOISY in table.column_names else table
        lengths = ragged_values(table, "history.item").lengths
        part = noisy[done : done + lengths.sum()]
        done += len(part)
        pq.write_table(table.append_column(NOISY, list_column(lengths, part.astype(np.int8))), path, row_group_size=256)
