"""Rows of a file -> one `HostBatch`. The reader worker filters and deduplicates the batch here, on the host.

Shapes: B requests, N events of one sequence, C candidates, U unique tokens of one feature set, T tasks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.attribute_store import AttributeStore
from dist_rec.data.columns import CANDIDATE, CONTEXT, Ints, arrow_schema
from dist_rec.data.dedup import every_token, unique_tokens
from dist_rec.data.feedback import feedback_columns, no_feedback, taught
from dist_rec.data.filter.event_filter import EventFilter, Left
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.joined import Joined, join_attributes
from dist_rec.data.later import FEEDBACK
from dist_rec.data.layout import FieldNgrams
from dist_rec.data.ngram.counts import NgramUse, use_by_order
from dist_rec.data.ngram.device import DeviceHash, heads_of
from dist_rec.data.ngram.host import candidate_ngram_ids, host_ngram_ids
from dist_rec.data.open_ids import remaps, sent_sizes
from dist_rec.data.outcome import num_targets, outcome
from dist_rec.data.read_lists import plain_list_bytes, read_lists
from dist_rec.data.reading import OwnerColumns, Reading
from dist_rec.data.request_values import plain_request_bytes, request_values
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.data.targets import Targets, read_labels
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.data.unique_tokens import UniqueTokens, deduplicate, remapped, together


@dataclass(frozen=True)
class Collator:
    """Makes batches of valid rows (see `validate`); with `max_length`, only of the newest events of each sequence.

    - ids are in order of first occurrence; without `dedup` every event is a token of its own
    - side values are uint8 up to 256 values and int16 above; ages are int32 seconds clipped to [0, 2^31 - 1]
    - numbers are float32, NaN where they are missing, or are sent as buckets, which are side values
    - ids of n-grams are made of what a filter leaves; without `hash_ngrams` they are made on the device
    - `labels` of a task that is `given` another task are NaN where the other label is 0, whatever the file has there,
      those that are not final are NaN, and those of a candidate that a filter takes from training are all NaN
    - `candidates_per_rank` is the number of candidates that are trained, of each task where labels take time; the
      training loop replaces it by the mean over its ranks
    - `targets` what is known of labels, by default that they are final
    - `attributes` those of the distinct ids; without them none is known
    - `plain_bytes` counts ids, side values and times as int64 KeyedJaggedTensors (8 bytes per value, 4 bytes of length
      per field and request), numbers as float32, attributes of every element, and labels, oracle, visible events and
      grouping keys as they are here
    """

    schema: Schema
    max_length: int | None = None
    dedup: bool = True
    event_filter: EventFilter | None = None
    hash_ngrams: bool = True
    targets: Targets | None = None
    attributes: AttributeStore | None = None

    def __call__(self, table: pa.Table, rows: Ints | None = None) -> HostBatch:
        """One batch; `rows` (B,) int64 which rows of the table, in which order; None: all of them."""
        schema = self.schema
        some = SomeRows(table, np.arange(table.num_rows) if rows is None else rows)
        left = Left(some) if self.event_filter is None else self.event_filter.left(some, schema, self.max_length)
        reading = Reading(left, schema, self.max_length)
        events = {of.name: reading.events(of.name, of) for of in schema.sequences}
        events[CANDIDATE] = reading.events(CANDIDATE, schema.candidate)
        targets = Targets() if self.targets is None else self.targets
        labels = read_labels(reading, targets)
        feedback, came = feedback_columns(reading, labels, targets), outcome(reading, labels)
        columns = {CONTEXT: reading.context()}
        columns |= {owner: of.ids for owner, of in events.items()}
        lists = read_lists(reading)
        columns |= {owner: [of.values] for owner, of in lists.items()}
        if schema.candidate.feedback is not None and schema.candidate.feedback.ids:
            columns[FEEDBACK] = no_feedback(schema.candidate.feedback) if feedback is None else feedback.ids
        columns |= {owner: [_ngrams(events[of.sequence], of)] for owner, of in self._hashed.items()}
        for owner, of in schema.layout.candidate_ngrams.items():
            columns[owner] = [_candidate_ngrams(events, of, came)]
        tokens, joined = self._tokens(columns)
        came["grouping_key"] = torch.from_numpy(left.some.scalars(schema.request.grouping_key).astype(np.int64))
        counts = num_targets(reading, labels, taught(labels, feedback, targets, schema.candidate.labels))
        every = list(events.values())
        if feedback is not None:
            every.append(feedback)
        beside = {name: tensor for of in every for name, tensor in of.tensors.items()}
        beside |= request_values(reading) | joined.tensors
        beside |= {f"lengths.{owner}": torch.from_numpy(of.lengths.astype(np.int32)) for owner, of in lists.items()}
        share = torch.tensor(counts if schema.candidate.delayed else counts[0], dtype=torch.float32)
        return HostBatch(
            tensors=TransferBuffer.of(
                {**tokens.tensors, **beside, **came, **heads_of(self._later), "candidates_per_rank": share}
            ),
            num_unique=tokens.num_unique,
            bits=tokens.bits,
            counts=tokens.counts,
            side={owner: of.side for owner, of in events.items()},
            feedback=None if feedback is None else feedback.side,
            plain_bytes=sum(of.plain_bytes for of in every)
            + 12 * len(schema.context) * len(left.some)
            + plain_request_bytes(reading)
            + joined.plain_bytes
            + plain_list_bytes(lists)
            + sum(tensor.nbytes for tensor in came.values()),
            num_targets=counts,
            filtered=left.counts,
            ngrams=schema.layout.ngrams,
            candidate_ngrams=tuple(schema.layout.candidate_ngrams),
            hash_there=DeviceHash(self._later, self.dedup) if self._later else None,
            ngram_use=self._ngram_use(tokens),
            kinds=schema.sent_kinds,
        )

    def empty(self) -> HostBatch:
        """A batch without requests, for a rank without more rows: every length is 0, the keys are the usual ones."""
        return self(arrow_schema(self.schema.with_copies()).empty_table())

    @property
    def _hashed(self) -> dict[str, FieldNgrams]:
        return self.schema.layout.ngrams if self.hash_ngrams else {}

    @property
    def _later(self) -> dict[str, FieldNgrams]:
        return {} if self.hash_ngrams else self.schema.layout.ngrams

    def _ngram_use(self, tokens: UniqueTokens) -> dict[str, NgramUse]:
        each = (_use_by_order(tokens, owner, of) for owner, of in self._hashed.items())
        return {name: use for found in each for name, use in found.items()}

    def _tokens(self, columns: Mapping[str, Sequence[NDArray]]) -> tuple[UniqueTokens, Joined]:
        """Distinct ids of all owners, then those of the lists that belong to distinct ids."""
        layout, lists = self.schema.layout, self.schema.layout.attribute_lists
        find, later = unique_tokens if self.dedup else every_token, {**self._later, **lists}
        owners = {owner: of for owner, of in layout.owners.items() if owner not in later}
        sizes = sent_sizes(self.schema, {key: size for key, size in layout.sizes.items() if key not in later})
        rows_of = remaps(self.schema)
        raw = deduplicate(columns, owners, {key: None if key in rows_of else of for key, of in sizes.items()}, find)
        joined = join_attributes(raw, self.schema, self.attributes)
        tokens = remapped(raw, rows_of, sizes)
        if not lists:
            return tokens, joined
        ids = {owner: [values] for owner, values in joined.ids.items()}
        sets = {owner: layout.owners[owner] for owner in lists}
        return together(tokens, deduplicate(ids, sets, {owner: layout.sizes[owner] for owner in lists}, find)), joined


def collate(
    table: pa.Table,
    schema: Schema,
    max_length: int | None = None,
    *,
    rows: Ints | None = None,
    dedup: bool = True,
    event_filter: EventFilter | None = None,
    hash_ngrams: bool = True,
    targets: Targets | None = None,
) -> HostBatch:
    """One batch of rows, as a `Collator` makes it without attributes."""
    return Collator(schema, max_length, dedup, event_filter, hash_ngrams, targets)(table, rows)


def empty_batch(
    schema: Schema,
    event_filter: EventFilter | None = None,
    *,
    hash_ngrams: bool = True,
    targets: Targets | None = None,
) -> HostBatch:
    """A batch without requests, see `Collator.empty`."""
    return Collator(schema, event_filter=event_filter, hash_ngrams=hash_ngrams, targets=targets).empty()


def _use_by_order(tokens: UniqueTokens, owner: str, of: FieldNgrams) -> dict[str, NgramUse]:
    table = np.searchsorted(of.spec.first_rows, tokens.ids_of(owner).numpy(), side="right") - 1
    of_tables = np.bincount(table, minlength=of.spec.tables)
    return use_by_order(of_tables.tolist(), tokens.counts[of.sequence], of)


def _ngrams(events: OwnerColumns, of: FieldNgrams) -> NDArray[np.int64]:
    """(N M,) rows of the n-grams of one field, those of an event side by side."""
    lengths, ages, slots = (events.numbers(f"{name}.{of.sequence}") for name in ("lengths", "age", "slot"))
    assert lengths is not None, "every sequence has them"
    ids = events.ids[of.place]
    return host_ngram_ids(ids, lengths, of.spec, hidden=of.hidden, times=ages, slots=slots).reshape(-1)


def _candidate_ngrams(events: dict[str, OwnerColumns], of: FieldNgrams, came: dict[str, Tensor]) -> NDArray[np.int64]:
    """(C M,) rows of the n-grams that candidates would make as the next event."""
    assert of.candidate_place is not None, "candidates have them"
    sequence, candidates = events[of.sequence], events[CANDIDATE]
    lengths, ages, slots = (sequence.numbers(f"{name}.{of.sequence}") for name in ("lengths", "age", "slot"))
    counts, places = candidates.numbers(f"lengths.{CANDIDATE}"), sequence.numbers(f"slots.{of.sequence}")
    assert lengths is not None and counts is not None, "all events have them"
    request = np.repeat(np.arange(len(lengths)), counts)
    whole = [lengths[request], (lengths if places is None else places)[request]]
    own = [came[name].numpy() for name in ("visible_events", "visible_slots") if name in came]
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
