"""The data sets of the study, each with a domain that is to be forgotten."""

import lzma
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import yaml
from scipy.optimize import brentq
from scipy.stats import norm

from benchmarks.filtering.policy import NoisyDomain, NoisyOptions
from dist_rec.data.columns import CANDIDATE, Ints, ragged_values, scalar_values
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.events import Events
from dist_rec.data.importers.assist import Assist
from dist_rec.data.importers.built import BuiltOptions
from dist_rec.data.importers.movielens import MovieLens
from dist_rec.data.row_reader import PARQUET
from dist_rec.data.schema_file import SCHEMA_FILE, load_schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.data.synthetic.history import FORGET_FILE, SynthConfig, synthesize

GENRE = "Sci-Fi"
SYNTHETIC = SynthConfig(
    requests=4_000, max_length=60, mean_length=20, items=200, categories=8, candidates=16, forget_share=0.2
)
MEMBERSHIP = SYNTHETIC.model_copy(update={"requests": 1_600})
NOISE = 0.4  # of the scores that a threshold is set on: F1 0.83 at the best one


@dataclass(frozen=True)
class Domain:
    """`field` and the values of it that are to be forgotten."""

    field: str
    values: list[int]


def make_synthetic(out: Path, config: SynthConfig, seed: int) -> Domain:
    """All models of the study have the row of HIDDEN, so that they have the same parameters."""
    synthesize(out, config.model_copy(update={"seed": seed}), force=True)
    _with_hidden(out)
    return Domain("category", [int(line) for line in (out / FORGET_FILE).read_text().split()])


def make_ml100k(out: Path, source: Path) -> Domain:
    """One genre: the movies that name it among theirs."""
    MovieLens(BuiltOptions())(source / "ml-100k", out, force=True)
    _with_hidden(out)
    with lzma.open(source / "ml-100k/ml-100k.item.xz", "rt") as file:
        text = file.read().splitlines()[1:]
    with_genre = {int(line.split("\t")[0]) for line in text if GENRE in line.split("\t")[3].split()}
    numbers = pq.read_table(out / "_build" / "item.parquet").to_pylist()
    return Domain("item", [row["id"] for row in numbers if row["value"] in with_genre])


def make_statics(out: Path, source: Path) -> Domain:
    """The exercises 0, 5, 10, ... of those that were answered most often, so that about a fifth of the answers go."""
    Assist(BuiltOptions())(source / "statics2011", out, force=True)
    _with_hidden(out)
    schema = load_schema(out)
    (sequence,) = schema.sequences
    name = sequence.ids[0].name
    counts = Counter[int]()
    for path in out.glob("fold*/*.parquet"):
        counts.update(ragged_values(pq.read_table(path), f"{sequence.name}.{name}").values.tolist())
    return Domain(name, sorted(item for item, _ in counts.most_common()[::5]))


def _with_hidden(folder: Path) -> None:
    path = folder / SCHEMA_FILE
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"hidden": True}, sort_keys=False))


def labels_of(folder: Path, domain: Domain, options: NoisyOptions, split: str = "train") -> tuple[Ints, Ints, Ints]:
    """Of every event of the first sequence of a split: grouping key, whether it is of the domain, whether the policy
    filters it; (N,) each."""
    schema = load_schema(folder)
    rows = PARQUET.read(PARQUET.row_groups(folder / split, schema), schema)
    events = Events(SomeRows(rows, np.arange(rows.num_rows)), schema, schema.sequences[0].name)
    filtered = NoisyDomain(options, FilterConfig(), schema).reasons(events) > 0
    user = scalar_values(rows, schema.request.grouping_key)[events.request]
    return user, np.isin(events.field(domain.field), domain.values), filtered


def threshold(domain_share: float, share: float) -> float:
    """The threshold on scores with NOISE above which `share` of all events are."""

    def above(at: float) -> float:
        return domain_share * norm.sf((at - 1) / NOISE) + (1 - domain_share) * norm.sf(at / NOISE) - share

    return float(brentq(above, -10, 10))


def users_to_remove(folder: Path, domain: Domain, options: NoisyOptions, share: float) -> list[int]:
    """Whole users, those with the largest part of filtered events first, until `share` of all events are theirs."""
    user, _, filtered = labels_of(folder, domain, options)
    keys, of = np.unique(user, return_inverse=True)
    events, hits = np.bincount(of), np.bincount(of, filtered)
    order = np.argsort(-hits / events, kind="stable")
    gone = np.cumsum(events[order]) <= share * len(user)
    return keys[order[gone]].tolist()


def best_losses(folder: Path, domain: Domain, splits: tuple[str, ...] = ("valid", "test")) -> dict[str, float]:
    """Logloss of the true probabilities, of the candidates of each domain, in nats."""
    tables = [pq.read_table(folder / split) for split in splits]
    truth, label, kind = (
        np.concatenate([ragged_values(table, f"{CANDIDATE}.{name}").values for table in tables])
        for name in ("click.oracle", "click", domain.field)
    )
    loss = -np.where(label == 1, np.log(truth), np.log1p(-truth))
    forget = np.isin(kind, domain.values)
    return {"forget": float(loss[forget].mean()), "retain": float(loss[~forget].mean())}
