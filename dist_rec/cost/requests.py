"""The requests of a step: how long, how many candidates, how many tokens occur twice. Measured from data, or described.

Rows that are made here have these sizes and ids that mean nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from dist_rec.common.strict import ConfigError, Strict, Width
from dist_rec.config import Config
from dist_rec.data.attribute_store import open_attributes
from dist_rec.data.collate import Collator
from dist_rec.data.columns import CANDIDATE, CONTEXT, Column, arrow_schema, columns_of, list_column
from dist_rec.data.errors import DataError
from dist_rec.data.example import ExampleAttributes, ListSize
from dist_rec.data.filter.event_filter import make_filter
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.layout import FeatureSet
from dist_rec.data.nested import nested_column
from dist_rec.data.reader import RequestReader
from dist_rec.data.row_reader import RowReader
from dist_rec.data.schema import Schema
from dist_rec.registry import READERS
from dist_rec.training.splits import declared_schema

MEASURED_BATCHES = 8
SCATTER = 7919 - 1  # one less than a prime: few sizes of tables share a factor with it
Counts = NDArray[np.int64]


class Described(Strict):
    """Requests that no data is there for; lengths are log-normal."""

    length: int = Field(ge=0, description="Mean events of every sequence.")
    spread: float = Field(default=0.0, ge=0.0, description="Standard deviation of the lengths over their mean.")
    candidates: Width = Field(default=1, description="Of every request.")
    duplicates: float = Field(default=0.5, ge=0.0, lt=1.0, description="Share of tokens that occurred in the batch.")
    list_ids: float = Field(
        default=2.0, ge=0.0, le=1e6, description="Mean ids of every list, such as the tags of an item."
    )


@dataclass(frozen=True)
class Requests:
    """The B requests of one rank's step.

    - `lengths` sequence -> (B,) events, `candidates` (B,)
    - `unique` feature set -> distinct tokens over tokens
    - `lists` owner of lists, of requests, of candidates or of ids -> their size
    - `spread`: standard deviation of the events of one request
    """

    lengths: dict[str, Counts]
    candidates: Counts
    unique: dict[str, float]
    lists: dict[str, ListSize]
    spread: float

    @property
    def count(self) -> int:
        """B"""
        return len(self.candidates)

    @property
    def events(self) -> int:
        """Of all sequences together."""
        return int(sum(of.sum() for of in self.lengths.values()))

    @property
    def duplicates(self) -> float:
        """Share of the tokens of events and candidates that occurred before."""
        shares = [share for name, share in self.unique.items() if name != CONTEXT]
        return 1 - sum(shares) / len(shares)

    def first(self, count: int) -> "Requests":
        lengths = {name: of[:count] for name, of in self.lengths.items()}
        return replace(self, lengths=lengths, candidates=self.candidates[:count])

    def one_candidate_each(self) -> "Requests":
        """The same candidates, a request for each: a history is there once per candidate, in the same batch. What
        occurs in a request occurs in its copies too, so there are no more distinct tokens than before."""
        times = self.candidates
        lengths = {name: of.repeat(times) for name, of in self.lengths.items()}
        together = self.spread * (times.mean() ** 0.5 if self.count else 1.0)
        apart = replace(self, lengths=lengths, candidates=np.ones(int(times.sum()), np.int64), spread=float(together))
        unique = {
            name: min(share * self._tokens(name) / max(apart._tokens(name), 1), 1.0)
            for name, share in self.unique.items()
        }
        return replace(apart, unique=unique)

    def padded(self) -> "Requests":
        """Every sequence as long as the longest of the batch, as padding makes them; batches stay as unequal as they
        are, relative to their size."""
        lengths = {name: np.full_like(of, of.max(initial=0)) for name, of in self.lengths.items()}
        padded = replace(self, lengths=lengths)
        padded = replace(padded, spread=self.spread * padded.events / max(self.events, 1))
        return replace(padded, unique=self._same_tokens(padded))

    def _same_tokens(self, larger: "Requests") -> dict[str, float]:
        """The shares by which larger requests have as many distinct tokens as these."""
        return {name: share * self._tokens(name) / max(larger._tokens(name), 1) for name, share in self.unique.items()}

    def _tokens(self, feature_set: str) -> int:
        return self.count if feature_set == CONTEXT else self.events + int(self.candidates.sum())

    def batch(self, schema: Schema, *, dedup: bool = True) -> HostBatch:
        """As a reader worker makes it, from rows of these sizes."""
        attributes = ExampleAttributes.of(schema, self._lists_of_ids(schema))
        return Collator(schema, dedup=dedup, attributes=attributes)(self.rows(schema))

    def _lists_of_ids(self, schema: Schema) -> dict[tuple[str, str], ListSize]:
        """By table and attribute. Of keys of one table the one counts whose lists have most ids that occur again."""
        layout = schema.layout
        owners = sorted(layout.attribute_lists, key=lambda owner: -self.lists[owner].unique)
        places = {owner: layout.attribute_lists[owner] for owner in owners}
        return {(layout.tables[key], name): self.lists[owner] for owner, (key, name) in places.items()}

    def rows(self, schema: Schema) -> pa.Table:
        """B rows of these sizes. Fewer tokens are distinct where the tables are too small for as many."""
        schema = schema.with_copies()
        ids = self._ids(schema)
        types = arrow_schema(schema)

        def array(column: Column) -> pa.Array:
            if column.owner in self.lists:
                of_request = self.lists[column.owner].lists(self.count, column.size or 1)
                return list_column(of_request.lengths, of_request.values).cast(types.field(column.name).type)
            lengths = self._lengths_of(column.owner) if column.is_list else np.ones(self.count, np.int64)
            values = ids.get((column.owner if column.is_list else CONTEXT, column.name))
            if values is None:
                values = np.zeros(int(lengths.sum()), np.int64)
            if column.kind == "visible_events":
                values = next(iter(self.lengths.values())).repeat(self.candidates)
            if column.nested:
                lists = self.lists[column.name].lists(len(values), column.size or 1)
                return nested_column(lengths, lists).cast(types.field(column.name).type)
            found = list_column(lengths, values) if column.is_list else pa.array(values)
            return found.cast(types.field(column.name).type)

        return pa.table([array(column) for column in columns_of(schema)], schema=types)

    def _lengths_of(self, owner: str) -> Counts:
        if owner == CANDIDATE:
            return self.candidates
        return self.lengths[owner] if owner in self.lengths else np.zeros(self.count, np.int64)  # no feedback

    def _ids(self, schema: Schema) -> dict[tuple[str, str], Counts]:
        """(owner, column) -> ids of its elements."""
        rng = np.random.default_rng(0)
        fields = {CONTEXT: schema.context, CANDIDATE: schema.candidate.ids} | {s.name: s.ids for s in schema.sequences}
        found: dict[tuple[str, str], Counts] = {}
        for feature_set in _measured_sets(schema).values():
            owners = [owner for owner, of in schema.layout.owners.items() if of is feature_set]
            counts = [self.count if owner == CONTEXT else int(self._lengths_of(owner).sum()) for owner in owners]
            total = sum(counts)
            distinct = max(round(total * self.unique[feature_set.name]), 1)
            token = np.concatenate(
                [np.arange(min(distinct, total)), rng.integers(0, distinct, max(total - distinct, 0))]
            )
            parts = np.split(rng.permutation(token), np.cumsum(counts)[:-1])
            for owner, tokens in zip(owners, parts, strict=True):
                left = tokens
                for field in sorted(fields[owner], key=lambda field: -schema.tables[field.table]):
                    size = schema.tables[field.table]
                    name = field.name if owner == CONTEXT else f"{owner}.{field.name}"
                    # All over the table, and still other ids, or other pairs of them, for other tokens.
                    found[owner, name], left = (left + tokens * SCATTER) % size, left // size
        return found


def described(schema: Schema, batch_size: int | None, batch_events: int | None, of: Described) -> Requests:
    """Requests of a step by a description; with `batch_events` as many as hold so many events."""
    sequences = [sequence.name for sequence in schema.sequences]
    count = batch_size or max((batch_events or 0) // max(of.length * len(sequences), 1), 1)
    rng = np.random.default_rng(0)
    variance = np.log1p(of.spread**2)
    lengths = {
        name: np.rint(of.length * rng.lognormal(-variance / 2, variance**0.5, count)).astype(np.int64)
        for name in sequences
    }
    total = np.sum(list(lengths.values()), axis=0)
    unique = {name: 1.0 if name == CONTEXT else 1 - of.duplicates for name in _measured_sets(schema)}
    lists = dict.fromkeys(_lists(schema), ListSize(of.list_ids))
    return Requests(lengths, np.full(count, of.candidates, np.int64), unique, lists, float(total.std()))


def measured(config: Config, schema: Schema) -> Requests:
    """Requests of a step by the first batches of the training split. Of these the one of median size.

    Raises ConfigError if there is no data to measure."""
    batches = list(first_batches(config, schema, READERS.make(config.data.reader), MEASURED_BATCHES, dedup=True))
    by_events = sorted(batches, key=lambda batch: batch.num_events)
    totals = np.concatenate([events_of(batch, schema) for batch in batches])
    return requests_of(by_events[len(by_events) // 2], schema, float(totals.std()))


def first_batches(config: Config, schema: Schema, rows: RowReader, count: int, *, dedup: bool) -> Iterator[HostBatch]:
    """Batches of the training split, those without requests left out. Raises ConfigError if there is no data."""
    acting = None
    if config.data.filter is not None:
        acting = make_filter(config.data.filter, declared_schema(config), training=True)
    try:
        reader = RequestReader(
            folders=[Path(config.data.path) / folder for folder in config.data.train],
            schema=schema,
            batch_size=config.data.batch_size,
            batch_events=config.data.batch_events,
            shuffle_window=config.data.shuffle_window,
            seed=config.run.seed,
            max_length=config.data.max_length,
            dedup=dedup,
            rows=rows,
            event_filter=None if acting is None else replace(acting, start_step=0),
            attributes=open_attributes(config.data.path, schema),
        )
        yield from (batch for batch in islice(reader, count) if batch.num_requests)
    except DataError as error:
        raise ConfigError(
            f"data.path: nothing to measure requests from ({error}); expected a training split, or --requests length=N "
            "and, where they are known, spread, candidates and duplicates"
        ) from error


def events_of(batch: HostBatch, schema: Schema) -> Counts:
    """(B,) events of all sequences of a request."""
    return np.sum([_counts(batch, s.name) for s in schema.sequences], axis=0)


def requests_of(batch: HostBatch, schema: Schema, spread: float) -> Requests:
    """The requests of a batch that was read; `spread` of the events of one."""
    unique = {}
    for name, of in _measured_sets(schema).items():
        owners = [owner for owner, owned in schema.layout.owners.items() if owned is of]
        tokens = sum(batch.counts[owner] for owner in owners)
        unique[name] = batch.num_unique[of.keys[0]] / max(tokens, 1)
    lengths = {s.name: _counts(batch, s.name) for s in schema.sequences}
    return Requests(lengths, _counts(batch, CANDIDATE), unique, _measured_lists(batch, schema), spread)


def _measured_lists(batch: HostBatch, schema: Schema) -> dict[str, ListSize]:
    found = {}
    for owner in _lists(schema):
        (key,), ids = schema.layout.owners[owner].keys, batch.counts[owner]
        found[owner] = ListSize(ids / max(len(_counts(batch, owner)), 1), batch.num_unique[key] / max(ids, 1))
    return found


def _lists(schema: Schema) -> tuple[str, ...]:
    """Owners of lists."""
    return (*schema.layout.id_lists, *schema.layout.attribute_lists)


def _measured_sets(schema: Schema) -> dict[str, FeatureSet]:
    """Without n-grams, which follow from the ids: of made ids hardly one occurs twice. And without lists, which have
    sizes of their own."""
    made = {*schema.layout.ngrams, *schema.layout.candidate_ngrams, *_lists(schema)}
    return {name: of for name, of in schema.layout.feature_sets.items() if name not in made}


def _counts(batch: HostBatch, owner: str) -> Counts:
    return batch.tensors[f"lengths.{owner}"].numpy().astype(np.int64)
