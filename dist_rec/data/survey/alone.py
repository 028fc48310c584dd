"""What a single feature tells of a label by itself: a label that was copied into a feature, or an event of what the
label is about, tells it all.

Every value of a feature is scored by the label rate it has in one half of the requests, and judged on the other.

Legend: C candidates.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.common.auc import auc
from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.data.row_reader import PARQUET, RowReader
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows

MOST_CANDIDATES = 100_000
LIMIT = 0.98  # AUC above which a feature is named
FEWEST = 10  # of each class, in each half
SMOOTHING = 10.0  # candidates of the mean rate that every value is given


@dataclass(frozen=True)
class Alone:
    """AUC of one feature for one task, on the half it was not fitted on; NaN where a class has too few candidates."""

    task: str
    feature: str
    auc: float

    @property
    def leaks(self) -> bool:
        return self.auc > LIMIT


def features_alone(folder: Path, schema: Schema, reader: RowReader = PARQUET) -> list[Alone]:
    """Every feature of candidates and requests, and of what a candidate has to do with the events, for every task; the
    largest AUC first. Reads row groups in a fixed random order until there are enough candidates."""
    groups = reader.row_groups(folder, schema)
    features: dict[str, list[Ints]] = {}
    labels: list[NDArray[np.float64]] = []
    second: list[NDArray[np.bool_]] = []
    count = 0
    for index in np.random.default_rng(0).permutation(len(groups)):
        table = reader.read([groups[index]], schema)
        for name, values in candidate_features(table, schema).items():
            features.setdefault(name, []).append(values)
        some = SomeRows(table.combine_chunks(), np.arange(table.num_rows))
        labels.append(np.stack([_labels(some, schema, task) for task in schema.candidate.labels], 1))
        lengths = some.lists(f"{CANDIDATE}.{schema.candidate.ids[0].name}").lengths
        second.append(np.repeat(np.arange(len(some)) % 2 == 1, lengths))
        count += len(labels[-1])
        if count >= MOST_CANDIDATES:
            break
    every, half = np.concatenate(labels), np.concatenate(second)
    found = [
        Alone(task, name, _judged(np.concatenate(values), every[:, place], half))
        for place, task in enumerate(schema.candidate.labels)
        for name, values in features.items()
    ]
    return sorted(found, key=lambda of: -np.nan_to_num(of.auc))


def candidate_features(table: pa.Table, schema: Schema) -> dict[str, Ints]:
    """(C,) whole numbers by name."""
    some = SomeRows(table.combine_chunks(), np.arange(table.num_rows))
    of = schema.candidate
    lengths = some.lists(f"{CANDIDATE}.{of.ids[0].name}").lengths
    row = np.repeat(np.arange(len(some)), lengths)
    found = {f"context.{field.name}": some.scalars(field.name).astype(np.int64)[row] for field in schema.context}
    for name in [*(field.name for field in of.ids), *of.side]:
        found[f"{CANDIDATE}.{name}"] = some.lists(f"{CANDIDATE}.{name}").values.astype(np.int64)
    for name in of.numbers:
        found[f"{CANDIDATE}.{name}"] = _rounded(some.lists(f"{CANDIDATE}.{name}").values)
    for name in schema.request.numbers:
        found[f"context.{name}"] = _rounded(some.scalars(name))[row]
    found["place among the candidates"] = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tables = {field.table: f"{CANDIDATE}.{field.name}" for field in reversed(of.ids)}
    for sequence in schema.sequences:
        for field in sequence.ids:
            if field.table in tables:
                events = some.lists(f"{sequence.name}.{field.name}")
                found |= _beside(
                    found[tables[field.table]],
                    row,
                    events.values.astype(np.int64),
                    events.lengths,
                    f"{sequence.name}.{field.name}",
                )
        found[f"events in {sequence.name}"] = some.lists(f"{sequence.name}.{sequence.ids[0].name}").lengths[row]
    return found


def _rounded(values: NDArray) -> Ints:
    """Numbers to three digits, as whole numbers in their order; NaN, a missing one, last of all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (2 - np.floor(np.log10(np.abs(values.astype(np.float64)))))
        near = np.where(values == 0, 0.0, np.round(values * scale) / scale)
    return near.astype(np.float32).view(np.int32).astype(np.int64)


def _beside(own: Ints, row: Ints, events: Ints, lengths: Ints, name: str) -> dict[str, Ints]:
    """How often a candidate's id is among the events of its request, and whether it is the newest of them."""
    of_event = np.repeat(np.arange(len(lengths)), lengths)
    known, place = np.unique(np.concatenate([own, events]), return_inverse=True)  # any 64 bits
    own, events, size = place[: len(own)], place[len(own) :], len(known)
    keys, times = np.unique(of_event * size + events, return_counts=True)
    wanted = row * size + own
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    count = np.where(keys[place] == wanted, times[place], 0) if len(keys) else np.zeros(len(own), np.int64)
    newest = np.full(len(lengths), -1, np.int64)
    ends = np.cumsum(lengths)
    newest[lengths > 0] = events[ends[lengths > 0] - 1]
    return {f"times it is in {name}": count, f"is the newest of {name}": (newest[row] == own).astype(np.int64)}


def _labels(some: SomeRows, schema: Schema, task: str) -> NDArray[np.float64]:
    """(C,) NaN where the label is not defined."""
    values = some.lists(f"{CANDIDATE}.{task}").values.astype(np.float64)
    condition = schema.candidate.given.get(task)
    if condition is not None:
        values[some.lists(f"{CANDIDATE}.{condition}").values != 1] = np.nan
    return values


def _judged(values: Ints, labels: NDArray[np.float64], half: NDArray[np.bool_]) -> float:
    defined = ~np.isnan(labels)
    values, labels, half = values[defined], labels[defined], half[defined]
    for part in (half, ~half):
        ones = labels[part].sum()
        if min(ones, part.sum() - ones) < FEWEST:
            return float("nan")
    _, place = np.unique(values, return_inverse=True)
    count = int(place.max()) + 1
    mean = labels[~half].mean()
    seen = np.bincount(place[~half], minlength=count)
    rate = (np.bincount(place[~half], labels[~half], count) + SMOOTHING * mean) / (seen + SMOOTHING)
    return auc(rate[place[half]], labels[half])
