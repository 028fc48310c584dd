"""`dist-rec filter fit`: a probe from the data and weak labels."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from dist_rec.common.logistic import Logistic, best_f1, f1_at, fit_logistic, threshold_of_share
from dist_rec.common.provenance import versions
from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import Ints, ragged_values, scalar_values
from dist_rec.data.event_store import whole
from dist_rec.data.owners import SequenceSchema
from dist_rec.data.row_reader import PARQUET, read_requests
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import load_schema
from dist_rec.data.validate import open_parquet
from dist_rec.probe.events import read_events, sequence_of
from dist_rec.probe.labels import WeakLabels
from dist_rec.probe.probe import EventProbe, ProbeFacts, facts_of, states_of
from dist_rec.probe.states import StatesConfig, one_thread, train_states

HELD_OUT = 5  # every fifth user, by a hash of the grouping key


@dataclass(frozen=True)
class _Fitted:
    """On the states of one depth: `scores` of the events held out, their best `threshold` and its `f1`."""

    depth: int
    logistic: Logistic
    scores: NDArray[np.float64]
    threshold: float
    f1: float


@one_thread()
def fit_probe(
    data: Path,
    labels: WeakLabels,
    *,
    split: str = "train",
    sequence: str | None = None,
    share: float | None = None,
    depth: int | None = None,
    config: StatesConfig | None = None,
    seed: int = 0,
) -> EventProbe:
    """Trains both models on the sequences of up to `config.requests` requests, freezes them, and fits the logistic
    regression on the labels of the longest history of each user. A fifth of the users is held out: on them the
    threshold is chosen, by the best F1 or so that `share` of the events are above it, and F1 is measured, which is
    therefore a little too good.

    `depth`: after how many layers states are read, 0 for none. None chooses by F1 on labels of events; with coarser
    labels it is 0, because F1 on these prefers states that know the session or the user to those that know the event
    (docs/probe.md).

    Raises ConfigError and DataError for data or labels that cannot be used."""
    schema, config = load_schema(data), config or StatesConfig()
    of = sequence_of(schema, sequence)
    labels.check(of)
    table = _sample(data / split, schema, labels, config.requests, seed)
    ids, side = [schema.tables[field.table] for field in of.ids], list(of.side.values())
    models = [
        train_states(read_events(table, of, backward=backward), ids, side, config, seed + backward)
        for backward in (False, True)
    ]
    chosen = table.take(pa.array(_longest(table, schema, of)))
    positive = labels.of(chosen, schema, of)
    lengths = ragged_values(chosen, f"{of.name}.{of.ids[0].name}").lengths
    held = np.repeat(_held_out(scalar_values(chosen, schema.request.grouping_key)), lengths)
    best: _Fitted | None = None
    for layer in _depths(depth, labels, config):
        both, _ = states_of(models, chosen, schema, of, depth=layer, candidates=False)
        try:
            logistic = fit_logistic(both[torch.from_numpy(~held)], positive[~held])
            scores = logistic.scores(both[torch.from_numpy(held)])
            threshold, f1 = best_f1(scores, positive[held])
        except ValueError as error:
            raise ConfigError(f"--labels {labels.source}, level {labels.level}, in {data / split}: {error}") from None
        if best is None or f1 > best.f1:
            best = _Fitted(layer, logistic, scores, threshold, f1)
    assert best is not None, "there is a depth of 0"
    threshold = best.threshold if share is None else threshold_of_share(best.scores, share)
    found = {"best_f1": best.f1, "f1": f1_at(best.scores, positive[held], threshold), "positive": positive.mean()}
    found |= {"above": (best.scores > threshold).mean(), "events": len(positive)}
    facts = ProbeFacts(
        **facts_of(schema, of),
        states=config,
        depth=best.depth,
        threshold=threshold,
        chosen_by="F1" if share is None else f"share {share}",
        level=labels.level,
        labels=labels.source,
        found={name: float(value) for name, value in found.items()},
        versions=versions(),
    )
    return EventProbe(models[0], models[1], best.logistic, facts)


def _depths(depth: int | None, labels: WeakLabels, config: StatesConfig) -> list[int]:
    if depth is None:
        return list(range(config.layers + 1)) if labels.level == "event" else [0]
    if not 0 <= depth <= config.layers:
        raise ConfigError(f"--depth: expected 0 to {config.layers}, the layers of the models, got {depth}")
    return [depth]


def _sample(folder: Path, schema: Schema, labels: WeakLabels, requests: int, seed: int) -> pa.Table:
    """Whole row groups in random order until there are enough requests, with the column of the labels."""
    groups = PARQUET.row_groups(folder, schema)
    tables: list[pa.Table] = []
    for index in np.random.default_rng(seed).permutation(len(groups)):
        group = groups[index]
        with open_parquet(group.path, schema) as file:
            table = whole(read_requests(file, schema, path=group.path, row_group=group.index), schema)
            if labels.column is not None and labels.column not in table.column_names:
                table = _with_column(table, file, labels.column, group.index)
        tables.append(table)
        if sum(of.num_rows for of in tables) >= requests:
            break
    return pa.concat_tables(tables).slice(0, requests).combine_chunks()


def _with_column(table: pa.Table, file: pq.ParquetFile, name: str, group: int) -> pa.Table:
    """A column of the file that is not in the schema; labels need not be."""
    if name not in file.schema_arrow.names:
        known = ", ".join(file.schema_arrow.names)
        raise ConfigError(f"--labels {name}: the data have no such column; expected field=FILE or one of {known}")
    return table.append_column(name, file.read_row_group(group, columns=[name]).column(0))


def _longest(table: pa.Table, schema: Schema, sequence: SequenceSchema) -> Ints:
    """For each user the row with the longest history: histories of one user repeat each other."""
    user = scalar_values(table, schema.request.grouping_key)
    lengths = ragged_values(table, f"{sequence.name}.{sequence.ids[0].name}").lengths
    order = np.lexsort((-lengths, user))
    first = np.append(True, user[order][1:] != user[order][:-1])
    return np.sort(order[first])


def _held_out(users: Ints) -> NDArray[np.bool_]:
    mixed = users.astype(np.int64).view(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return (mixed >> np.uint64(33)) % np.uint64(HELD_OUT) == 0
