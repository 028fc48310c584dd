"""The largest batch that a run's data have, and the mean one: read from the data, or made from a description.

The events of every row group are in the footers. They give the mean of all data, and say where the longest requests
are: only those row groups are read, and some spread over all others.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from dist_rec.common.strict import ConfigError, Strict, check
from dist_rec.common.yaml_file import apply_override
from dist_rec.config import Config
from dist_rec.cost.network import imbalance
from dist_rec.cost.requests import Counts, Described, Requests, described, events_of, first_batches, requests_of
from dist_rec.data.errors import DataError
from dist_rec.data.files import RowGroup
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.row_reader import RowReader
from dist_rec.data.schema import Schema
from dist_rec.registry import READERS

HEAVIEST, SPREAD_OUT = 32, 32  # row groups that are read
MOST_BATCHES = 256
STEPS = 10_000  # of a run with described requests, whose largest batch is expected


@dataclass(frozen=True)
class Batches:
    """The `largest` and the `mean` batch of a rank, the requests of the mean one, and in words where they are from."""

    largest: HostBatch
    mean: HostBatch
    requests: Requests
    source: str


class SomeRowGroups(RowReader):
    """Another reader's row groups with most events per row, and some of the others, in their order."""

    def __init__(self, of: RowReader) -> None:
        super().__init__(Strict())
        self.of = of

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        groups = self.of.row_groups(folder, schema)
        order = sorted(range(len(groups)), key=lambda at: -_events(groups[at]) / groups[at].rows)
        others = order[HEAVIEST:]
        chosen = {*order[:HEAVIEST], *others[:: max(len(others) // SPREAD_OUT, 1)]}
        return [groups[at] for at in sorted(chosen)]

    def read(self, groups: Sequence[RowGroup], schema: Schema) -> pa.Table:
        return self.of.read(groups, schema)


def batches_of(config: Config, schema: Schema, said: Sequence[str], ranks: int) -> Batches:
    """Of the training split; or by `said`, `key=value` of `Described`. Raises ConfigError for what is wrong there."""
    return _described(config, schema, said, ranks) if said else _read(config, schema)


def _read(config: Config, schema: Schema) -> Batches:
    reader: RowReader = READERS.make(config.data.reader)
    try:
        groups = [of for at in config.data.train for of in reader.row_groups(Path(config.data.path) / at, schema)]
    except DataError as error:
        raise ConfigError(f"data.path: {error}; expected a training split, or --requests length=N") from error
    rows, events = sum(of.rows for of in groups), sum(map(_events, groups))
    wanted = config.data.batch_events or min(config.data.batch_size or rows, rows) * events / rows
    largest = mean = None
    totals: list[Counts] = []
    for batch in first_batches(config, schema, SomeRowGroups(reader), MOST_BATCHES, dedup=config.data.dedup):
        totals.append(events_of(batch, schema))
        if largest is None or batch.num_events > largest.num_events:
            largest = batch
        if mean is None or abs(batch.num_events - wanted) < abs(mean.num_events - wanted):
            mean = batch
    if largest is None or mean is None:
        raise ConfigError(f"data.path {config.data.path}: no batch of the training split has requests")
    source = f"{len(totals)} batches of the training split, which has {rows:,} requests and {events:,} events"
    return Batches(largest, mean, requests_of(mean, schema, float(np.concatenate(totals).std())), source)


def _events(group: RowGroup) -> int:
    """A reader of one's own may not know them."""
    return group.rows if group.events is None else group.events


def _described(config: Config, schema: Schema, said: Sequence[str], ranks: int) -> Batches:
    """The largest of all ranks' batches, where their events are normal; all of its sequences are longer by as much."""
    tree: dict[str, Any] = {}
    for each in said:
        apply_override(tree, each)
    mean = described(schema, config.data.batch_size, config.data.batch_events, check(Described, tree, "--requests"))
    more = 1.0 if config.data.batch_events else imbalance(ranks * STEPS, mean.events, mean.spread * mean.count**0.5)
    lengths = {name: np.ceil(more * of).astype(np.int64) for name, of in mean.lengths.items()}
    largest, usual = (each.batch(schema, dedup=config.data.dedup) for each in (replace(mean, lengths=lengths), mean))
    source = f"declared: {', '.join(said)}; the largest of {STEPS:,} steps of all ranks"
    return Batches(largest, usual, mean, source)
