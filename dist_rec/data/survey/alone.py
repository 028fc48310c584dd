"""What a single feature tells of a label by itself: a label that was copied into a feature, or an event of what the
label is about, tells it all.

Every value of a feature is scored by the label rate it has in one half of the requests, and judged on the other.

Legend: C candidates.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.auc import auc
from dist_rec.data.attribute_store import AttributeStore
from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.data.row_reader import PARQUET, RowReader
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.data.survey.features import candidate_features

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


def features_alone(
    folder: Path, schema: Schema, attributes: AttributeStore | None = None, reader: RowReader = PARQUET
) -> list[Alone]:
    """Every feature of `candidate_features` for every task, the largest AUC first. Reads row groups of a split
    in a fixed random order until there are enough candidates."""
    groups = reader.row_groups(folder, schema)
    features: dict[str, list[Ints]] = {}
    labels: list[NDArray[np.float64]] = []
    second: list[NDArray[np.bool_]] = []
    count = 0
    for index in np.random.default_rng(0).permutation(len(groups)):
        table = reader.read([groups[index]], schema)
        for name, values in candidate_features(table, schema, attributes).items():
            features.setdefault(name, []).append(values)
        some = SomeRows(table.combine_chunks(), np.arange(table.num_rows))
        labels.append(np.stack([_labels(some, schema, task) for task in schema.candidate.labels], 1))
        lengths = some.lists(f"{CANDIDATE}.{schema.candidate.ids[0].name}").lengths
        second.append(np.repeat(np.arange(len(some)) % 2 == 1, lengths))
        count += len(labels[-1])
        if count >= MOST_CANDIDATES:
            break
    every, half = np.concatenate(labels), np.concatenate(second)
    judged = [
        Alone(task, name, _judged(np.concatenate(values), every[:, place], half))
        for place, task in enumerate(schema.candidate.labels)
        for name, values in features.items()
    ]
    return sorted(judged, key=lambda of: -np.nan_to_num(of.auc))


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
