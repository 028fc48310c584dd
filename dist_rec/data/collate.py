"""Rows of a file -> one `HostBatch`. The reader worker filters and deduplicates the batch here, on the host.

Shapes: B requests, N events of one sequence, C candidates, U unique tokens of one feature set, T tasks.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.columns import CANDIDATE, CONTEXT, Ints, arrow_schema
from dist_rec.data.dedup import every_token, unique_tokens
from dist_rec.data.filter.event_filter import EventFilter, Left
from dist_rec.data.gather import gather_ages
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.layout import FieldNgrams
from dist_rec.data.ngram.counts import NgramUse, use_by_order
from dist_rec.data.ngram.device import DeviceHash, heads_of
from dist_rec.data.ngram.host import candidate_ngram_ids, host_ngram_ids
from dist_rec.data.schema import CandidateSchema, Schema, SequenceSchema
from dist_rec.data.some_rows import SomeRows
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.data.unique_tokens import UniqueTokens, deduplicate


@dataclass(frozen=True)
class _Events:
    """One sequence, or the candidates, of B requests: ids (N,) per field, and other tensors by name."""

    ids: list[NDArray]
    tensors: dict[str, Tensor]
    plain_bytes: int

    def numbers(self, name: str) -> NDArray | None:
        """One of the tensors, or None if there is no such one."""
        return self.tensors[name].numpy() if name in self.tensors else None


def collate(
    table: pa.Table,
    schema: Schema,
    max_length: int | None = None,
    *,
    rows: Ints | None = None,
    dedup: bool = True,
    event_filter: EventFilter | None = None,
    hash_ngrams: bool = True,
) -> HostBatch:
    """One batch from valid rows (see `validate`); with `max_length`, only the newest events of each sequence.

    - `rows` (B,) int64 which rows of the table, in which order; None: all of them
    - ids are in order of first occurrence; without `dedup` every event is a token of its own
    - side values are uint8 up to 256 values and int16 above; ages are int32 seconds clipped to [0, 2^31 - 1]
    - ids of n-grams are made of what a filter leaves; without `hash_ngrams` they are made on the device
    - `labels` of a task that is `given` another task are NaN where the other label is 0, whatever the file has there,
      and those of a candidate that a filter takes from training are all NaN
    - `candidates_per_rank` is the number of candidates that are trained; the training loop replaces it by the mean
      over its ranks
    - `plain_bytes` counts ids, side values and times as int64 KeyedJaggedTensors (8 bytes per value, 4 bytes of length
      per field and request), and labels, oracle, visible events and grouping keys as they are here
    """
    some = SomeRows(table, np.arange(table.num_rows) if rows is None else rows)
    left = Left(some) if event_filter is None else event_filter.left(some, schema, max_length)
    reading = _Reading(left, schema, max_length)
    events = {of.name: reading.events(of.name, of) for of in schema.sequences}
    events[CANDIDATE] = reading.events(CANDIDATE, schema.candidate)
    context = [left.some.scalars(field.name) for field in schema.context]
    columns = {CONTEXT: context} | {owner: of.ids for owner, of in events.items()}
    layout = schema.layout
    hashed, later = (layout.ngrams, {}) if hash_ngrams else ({}, layout.ngrams)
    outcome = reading.outcome()
    columns |= {owner: [_ngrams(events[of.sequence], of)] for owner, of in hashed.items()}
    for owner, of in layout.candidate_ngrams.items():
        columns[owner] = [_candidate_ngrams(events, of, outcome)]
    owners = {owner: of for owner, of in layout.owners.items() if owner not in later}
    sizes = {key: size for key, size in layout.sizes.items() if key not in later}
    tokens = deduplicate(columns, owners, sizes, unique_tokens if dedup else every_token)
    outcome["grouping_key"] = torch.from_numpy(left.some.scalars(schema.request.grouping_key).astype(np.int64))
    targets = len(outcome["labels"]) - (0 if left.untrained is None else int(left.untrained.sum()))
    beside = {name: tensor for of in events.values() for name, tensor in of.tensors.items()}
    count = torch.tensor(float(targets), dtype=torch.float32)
    return HostBatch(
        tensors=TransferBuffer.of(
            {**tokens.tensors, **beside, **outcome, **heads_of(later), "candidates_per_rank": count}
        ),
        num_unique=tokens.num_unique,
        bits=tokens.bits,
        counts=tokens.counts,
        side={of.name: tuple(of.side) for of in schema.sequences} | {CANDIDATE: tuple(schema.candidate.side)},
        plain_bytes=sum(of.plain_bytes for of in events.values())
        + 12 * len(context) * len(left.some)
        + sum(tensor.nbytes for tensor in outcome.values()),
        num_targets=targets,
        filtered=left.counts,
        ngrams=layout.ngrams,
        candidate_ngrams=tuple(layout.candidate_ngrams),
        hash_there=DeviceHash(later, dedup) if later else None,
        ngram_use={name: use for owner, of in hashed.items() for name, use in _use_by_order(tokens, owner, of).items()},
    )


def empty_batch(schema: Schema, event_filter: EventFilter | None = None, *, hash_ngrams: bool = True) -> HostBatch:
    """A batch without requests, for a rank without more rows: every length is 0, the keys are the usual ones."""
    return collate(arrow_schema(schema).empty_table(), schema, event_filter=event_filter, hash_ngrams=hash_ngrams)


def _use_by_order(tokens: UniqueTokens, owner: str, of: FieldNgrams) -> dict[str, NgramUse]:
    table = np.searchsorted(of.spec.first_rows, tokens.ids_of(owner).numpy(), side="right") - 1
    of_tables = np.bincount(table, minlength=of.spec.tables)
    return use_by_order(of_tables.tolist(), tokens.counts[of.sequence], of)


def _ngrams(events: _Events, of: FieldNgrams) -> NDArray[np.int64]:
    """(N M,) rows of the n-grams of one field, those of an event side by side."""
    lengths, ages, slots = (events.numbers(f"{name}.{of.sequence}") for name in ("lengths", "age", "slot"))
    assert lengths is not None, "every sequence has them"
    ids = events.ids[of.place]
    return host_ngram_ids(ids, lengths, of.spec, hidden=of.hidden, times=ages, slots=slots).reshape(-1)


def _candidate_ngrams(events: dict[str, _Events], of: FieldNgrams, outcome: dict[str, Tensor]) -> NDArray[np.int64]:
    """(C M,) rows of the n-grams that candidates would make as the next event."""
    assert of.candidate_place is not None, "candidates have them"
    sequence, candidates = events[of.sequence], events[CANDIDATE]
    lengths, ages, slots = (sequence.numbers(f"{name}.{of.sequence}") for name in ("lengths", "age", "slot"))
    counts, places = candidates.numbers(f"lengths.{CANDIDATE}"), sequence.numbers(f"slots.{of.sequence}")
    assert lengths is not None and counts is not None, "all events have them"
    request = np.repeat(np.arange(len(lengths)), counts)
    whole = [lengths[request], (lengths if places is None else places)[request]]
    own = [outcome[name].numpy() for name in ("visible_events", "visible_slots") if name in outcome]
    seen = own * 2 if len(own) == 1 else own or whole  # without empty places a candidate sees as many as events
    return candidate_ngram_ids(
        sequence.ids[of.place],
        lengths,
        candidates.ids[of.candidate_place],
        np.stack([request, *seen], axis=1).astype(np.int64),
        of.spec,
        hidden=of.hidden,
        ages=ages,
        slots=slots,
    ).reshape(-1)


@dataclass(frozen=True)
class _Reading:
    """The columns of what is left of some requests."""

    left: Left
    schema: Schema
    max_length: int | None

    def values(self, owner: str, name: str) -> NDArray:
        """(N,) of a list column: of a sequence the newest `max_length` events."""
        kept = self.left.kept.get(owner)
        most = self.max_length if owner != CANDIDATE and kept is None else None
        values = self.left.some.lists(f"{owner}.{name}", most).values
        return values if kept is None else kept.of(values)

    def shown(self, owner: str, name: str, hidden: int) -> NDArray:
        """(N,) ids or side values, with the value `hidden` in the place of what is hidden."""
        kept = self.left.kept.get(owner)
        if kept is None:
            return self.values(owner, name)
        return kept.shown(self.left.some.lists(f"{owner}.{name}").values, hidden)

    def lengths(self, owner: str, name: str) -> Ints:
        """(B,) of a list column."""
        kept = self.left.kept.get(owner)
        most = None if owner == CANDIDATE else self.max_length
        return self.left.some.lists(f"{owner}.{name}", most).lengths if kept is None else kept.lengths

    def ages(self, sequence: str) -> NDArray[np.int32]:
        """(N,) seconds from each event to its request."""
        assert self.schema.request.time is not None, "the schema asks for it where a sequence has times"
        now = self.left.some.scalars(self.schema.request.time).astype(np.int64)
        kept = self.left.kept.get(sequence)
        times = self.left.some.lists(f"{sequence}.time", self.max_length if kept is None else None)
        ages = gather_ages(times.entries.astype(np.int64, copy=False), times.starts, times.lengths, now)
        return ages if kept is None else kept.of(ages)

    def events(self, owner: str, declared: SequenceSchema | CandidateSchema) -> _Events:
        lengths = self.lengths(owner, declared.ids[0].name)
        tensors = {f"lengths.{owner}": torch.from_numpy(lengths.astype(np.int32))}
        values = self.schema.side_values(declared)
        for name, size in declared.side.items():
            kind = np.uint8 if values[name] <= 2**8 else np.int16
            tensors[f"side.{owner}.{name}"] = torch.from_numpy(self.shown(owner, name, size).astype(kind, copy=False))
        if isinstance(declared, SequenceSchema) and declared.time:
            tensors[f"age.{owner}"] = torch.from_numpy(self.ages(owner))
        # As int64 KeyedJaggedTensors: 8 bytes per value, 4 bytes of length per request, for every field and the time.
        plain_bytes = (len(declared.ids) + len(tensors) - 1) * (8 * int(lengths.sum()) + 4 * len(lengths))
        kept = self.left.kept.get(owner)
        if kept is not None and kept.slots is not None:
            narrow = kept.slots.lengths.max(initial=0) < 2**15
            position = kept.slots.position.astype(np.int16) if narrow else kept.slots.position
            tensors[f"slot.{owner}"] = torch.from_numpy(position)
            tensors[f"slots.{owner}"] = torch.from_numpy(kept.slots.lengths)
        ids = [self.shown(owner, field.name, self.schema.tables[field.table]) for field in declared.ids]
        return _Events(ids, tensors, plain_bytes)

    def outcome(self) -> dict[str, Tensor]:
        """`labels`, `oracle` and `visible_events` if the schema has them, and in evaluation what a filter `chose`."""

        def columns(names: list[str]) -> Tensor:
            values = [self.values(CANDIDATE, name).astype(np.float32) for name in names]
            return torch.from_numpy(np.stack(values, axis=1))

        declared = self.schema.candidate
        observed = columns(declared.labels)
        for task, condition in declared.given.items():
            undefined = observed[:, declared.labels.index(condition)] == 0
            observed[undefined, declared.labels.index(task)] = torch.nan
        outcome = {"labels": observed}
        if declared.oracle:
            outcome["oracle"] = columns([f"{label}.oracle" for label in declared.labels])
        if self.left.untrained is not None:
            for values in outcome.values():
                values[torch.from_numpy(self.left.untrained)] = torch.nan
        if declared.visible_events:
            outcome |= self._visible_events()
        if self.left.chosen is not None:
            outcome["chosen"] = torch.from_numpy(self.left.chosen)
        return outcome

    def _visible_events(self) -> dict[str, Tensor]:
        """How many of the events that are left each candidate sees, and where slots are empty how many slots."""
        visible = self.values(CANDIDATE, "visible_events").astype(np.int64)
        (sequence,) = self.schema.sequences
        kept = self.left.kept.get(sequence.name)
        if kept is None:
            return {"visible_events": torch.from_numpy(visible.astype(np.int32))}
        events = self.left.some.lists(f"{sequence.name}.{sequence.ids[0].name}").lengths
        first = (np.cumsum(events) - events).repeat(self.lengths(CANDIDATE, self.schema.candidate.ids[0].name))

        def among(before: Ints) -> Tensor:
            return torch.from_numpy((before[first + visible] - before[first]).astype(np.int32))

        found = {"visible_events": among(kept.before)}
        return found if kept.slots is None else found | {"visible_slots": among(kept.places_before)}
