"""Public data with feedback: what a learner or viewer did next. One label in ten is final, the others are not yet.

`statics2011`: the candidate is an answer, feedback the answers after it. `ml-1m`: a rated film, and the ratings after
it, as far as the training split knows them. The candidate's own label is never among them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from benchmarks.distill.runs import trained
from benchmarks.tables import append, read_rows
from dist_rec.config import Config, load_config
from dist_rec.data.columns import list_column
from dist_rec.data.schema_file import load_schema
from dist_rec.training.ranks import start_ranks

FINAL = 0.1  # share of the labels
WINDOW = 3  # events of feedback
SEEDS = (1, 2, 3)
RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
TEACHER: dict[str, Any] = {"warmup_updates": 50}
ARMS: dict[str, dict[str, Any]] = {
    "labels": {},
    "teacher only": {"distill": TEACHER | {"weight": 0.0}},
    "forward KL, labelled": {"distill": TEACHER | {"rows": "labelled"}},
    "forward KL, all": {"distill": TEACHER},
    "every label": {"final": True},
}


@dataclass(frozen=True)
class Set:
    """A dataset: its recipe and changes of it, its fields of history, the splits to read."""

    recipe: str
    fields: tuple[str, ...]
    splits: dict[str, list[str]]
    changes: tuple[str, ...]


SETS = {
    "statics2011": Set(
        "statics2011.yaml",
        ("exercise", "correct"),
        {"train": ["fold3", "fold4", "fold5"], "valid": ["fold2"], "test": ["fold1"]},
        ("run.epochs=6", "run.eval_every=26"),
    ),
    "ml-1m": Set(
        "ml1m.yaml",
        ("item", "genres", "rating"),
        {"train": ["train"], "valid": ["valid"], "test": ["test"]},
        ("data.max_length=64", "model.longer.k=16", "run.max_steps=1200", "run.eval_every=200", "run.epochs=4"),
    ),
}


@dataclass(frozen=True)
class Row:
    """One run: test metrics of the weights that are best on validation; `audit`: AUC of feedback alone."""

    data: str
    arm: str
    seed: int
    auc: float
    logloss: float
    calibration: float
    audit: float


def run_real(table: Path, data: Path, names: Iterable[str], seeds: Iterable[int]) -> None:
    """Appends the runs that the table lacks."""
    done = {(row.data, row.arm, row.seed) for row in read(table)}
    seeds = list(seeds)
    for name in names:
        with TemporaryDirectory() as place:
            folders = {final: Path(place) / f"final-{final}" for final in (False, True)}
            for final, folder in folders.items():
                write_with_feedback(data / name, folder, SETS[name], every=final)
            with start_ranks(_config(name, folders[False], 0, {}).parallel) as ranks:
                for seed in seeds:
                    for arm, changes in ARMS.items():
                        if (name, arm, seed) not in done:
                            config = _config(name, folders[changes.get("final", False)], seed, changes)
                            test, audit = trained(config, ranks)
                            scores = (round(of, 5) for of in (test.auc, test.logloss, test.calibration, audit))
                            append(table, Row(name, arm, seed, *scores))


def _config(name: str, folder: Path, seed: int, changes: dict[str, Any]) -> Config:
    of = SETS[name]
    splits = [f"data.{split}=[{', '.join(folders)}]" for split, folders in of.splits.items()]
    more = ("data.folds=[]", "data.workers=0", "run.seeds=[]", f"run.seed={seed}", f"run.out={folder.parent}")
    config = load_config(RECIPES / of.recipe, [f"data.path={folder}", *splits, *more, *of.changes])
    return Config.model_validate(config.model_dump(mode="json") | {"distill": changes.get("distill")})


def write_with_feedback(source: Path, folder: Path, of: Set, *, every: bool) -> None:
    """The same dataset with feedback of training candidates, and a share of their labels final, or `every` one."""
    tree = yaml.safe_load((source / "schema.yaml").read_text())
    schema = load_schema(source)
    (history,), (label,) = schema.sequences, schema.candidate.labels
    ids = [field.model_dump(include={"name", "table"}) for field in history.ids]
    tree["candidate"] |= {
        "delayed": {label: {}},
        "feedback": {"ids": ids, "side": dict(history.side), "most": WINDOW},
    }
    rng = np.random.default_rng(0)
    folder.mkdir()
    (folder / "schema.yaml").write_text(yaml.safe_dump(tree))
    for split, folders in of.splits.items():
        for name in folders:
            (folder / name).mkdir()
            table = pa.concat_tables(pq.read_table(path) for path in sorted((source / name).glob("*.parquet")))
            share = 1.0 if every or split != "train" else FINAL
            rows_per_group = pq.read_metadata(next((source / name).glob("*.parquet"))).row_group(0).num_rows
            whole = _with_feedback(table, of, schema.candidate.visible_events, label, share, rng)
            pq.write_table(whole, folder / name / "part-00000.parquet", row_group_size=rows_per_group)


def _with_feedback(
    table: pa.Table, of: Set, visible: bool, label: str, share: float, rng: np.random.Generator
) -> pa.Table:
    owner = "candidate" if visible else "history"
    values = {name: table[f"{owner}.{name}"].to_pylist() for name in of.fields}
    first = values[of.fields[0]]
    if visible:  # all events of a user are candidates of one request, in order of time
        places = [[(row, at + 1) for at in range(len(events))] for row, events in enumerate(first)]
    else:  # a request for each labelled event; the longest history of a user has the earlier ones' next events
        users = table["user_key"].to_pylist()
        best: dict[int, int] = {}
        for row, user in enumerate(users):
            if len(first[row]) > len(first[best.get(user, row)]) or user not in best:
                best[user] = row
        items = table[f"candidate.{of.fields[0]}"].to_pylist()
        places = [
            [(best[user], _after(first[best[user]], item, len(events))) for item in own]
            for user, events, own in zip(users, first, items)
        ]
    counts = [[len(first[row][at : at + WINDOW]) for row, at in each] for each in places]
    added = {
        f"feedback.{name}": [[x for row, at in each for x in all_of[row][at : at + WINDOW]] for each in places]
        for name, all_of in values.items()
    }
    lengths = np.array([len(each) for each in places])
    mature = (rng.random(lengths.sum()) < share).astype(np.int8)
    table = table.append_column("candidate.feedback_events", pa.array(counts, pa.list_(pa.int32())))
    table = table.append_column(f"candidate.{label}.matured", list_column(lengths, mature))
    for name, column in added.items():
        table = table.append_column(name, pa.array(column, table.schema.field(f"history.{name[9:]}").type))
    return table


def _after(events: list[int], item: int, known: int) -> int:
    """The place behind a candidate's own event, which is none of the first `known`: events of the same second may be
    before it. Behind all of them, if it is not there, or cannot be told from others that training does not know."""
    return events.index(item, known) + 1 if item and item in events[known:] else len(events)


def read(table: Path) -> list[Row]:
    return read_rows(table, Row)


def page(rows: list[Row]) -> Iterator[str]:
    """Lines of the tables."""
    yield (
        f"{FINAL:.0%} of the training labels are final, chosen by chance; feedback: the next {WINDOW} events after the "
        "candidate. `every label`: all of them final. Mean and standard deviation over seeds."
    )
    for name in dict.fromkeys(row.data for row in rows):
        found = [row for row in rows if row.data == name]
        audit = next((row.audit for row in found if row.audit == row.audit), float("nan"))
        yield from ("", f"## {name}", "", f"AUC of feedback alone: {audit:.3f}.", "")
        yield "| arm | AUC | against labels, paired | logloss | calibration | seeds |"
        yield "|---|---|---|---|---|---|"
        base = {row.seed: row.auc for row in found if row.arm == "labels"}
        for arm in ARMS:
            of = [row for row in found if row.arm == arm]
            if of:
                gains = [row.auc - base[row.seed] for row in of]
                cells = (_spread([row.auc for row in of]), _spread(gains, signed=True))
                more = (f"{mean(getattr(row, field) for row in of):.4f}" for field in ("logloss", "calibration"))
                yield f"| {arm} | {' | '.join([*cells, *more])} | {len(of)} |"


def _spread(values: list[float], *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{mean(values):{sign}.4f} ± {deviation:.4f}"
