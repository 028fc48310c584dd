"""Rows of a file -> one `HostBatch`. The reader worker deduplicates the batch here, on the host.

Shapes: B requests, N events of one sequence, C candidates, U unique tokens of one feature set, T tasks.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.columns import CANDIDATE, CONTEXT, Ints, arrow_schema, one_array, scalar_values
from dist_rec.data.dedup import every_token, unique_tokens
from dist_rec.data.gather import gather, gather_ages
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import CandidateSchema, Schema, SequenceSchema
from dist_rec.data.transfer_buffer import TransferBuffer
from dist_rec.data.unique_tokens import deduplicate


@dataclass(frozen=True)
class _Selection:
    """Rows of a table, in the order of `rows` (B,)."""

    table: pa.Table
    rows: Ints

    def scalars(self, name: str) -> NDArray:
        """(B,) of a column with one value per row."""
        return scalar_values(self.table, name)[self.rows]

    def lists(self, name: str, max_length: int | None = None) -> "_Lists":
        """A list column, of every row its last `max_length` entries."""
        array = one_array(self.table, name)
        offsets = array.offsets.to_numpy()
        ends = offsets[1:][self.rows].astype(np.int64)
        lengths = (ends - offsets[:-1][self.rows]).clip(max=max_length)
        return _Lists(array.values.to_numpy(), ends - lengths, lengths)


@dataclass(frozen=True)
class _Lists:
    """A list column of B rows: entries `starts[b]` to `starts[b] + lengths[b]` of all `entries`."""

    entries: NDArray
    starts: Ints
    lengths: Ints

    @property
    def values(self) -> NDArray:
        """(N,) the entries of one row after the other."""
        return gather(self.entries, self.starts, self.lengths)


@dataclass(frozen=True)
class _Events:
    """One sequence, or the candidates, of B requests: ids (N,) per field, and other tensors by name."""

    ids: list[NDArray]
    tensors: dict[str, Tensor]
    plain_bytes: int


def collate(
    table: pa.Table,
    schema: Schema,
    max_length: int | None = None,
    *,
    rows: Ints | None = None,
    dedup: bool = True,
) -> HostBatch:
    """One batch from valid rows (see `validate`); with `max_length`, only the newest events of each sequence.

    - `rows` (B,) int64 which rows of the table, in which order; None: all of them
    - ids are in order of first occurrence; without `dedup` every event is a token of its own
    - side values are uint8 up to 256 values and int16 above; ages are int32 seconds clipped to [0, 2^31 - 1]
    - `labels` of a task that is `given` another task are NaN where the other label is 0, whatever the file has there
    - `candidates_per_rank` is C; the training loop replaces it by the mean over its ranks
    - `plain_bytes` counts ids, side values and times as int64 KeyedJaggedTensors (8 bytes per value, 4 bytes of length
      per field and request), and labels, oracle, visible events and grouping keys as they are here
    """
    some = _Selection(table, np.arange(table.num_rows) if rows is None else rows)
    now = None if schema.request.time is None else some.scalars(schema.request.time).astype(np.int64)
    events = {of.name: _read_events(some, of.name, of, now if of.time else None, max_length) for of in schema.sequences}
    events[CANDIDATE] = _read_events(some, CANDIDATE, schema.candidate, None, None)
    context = [some.scalars(field.name) for field in schema.context]
    columns = {CONTEXT: context} | {owner: of.ids for owner, of in events.items()}
    find = unique_tokens if dedup else every_token
    tokens = deduplicate(columns, schema.layout.owners, schema.layout.sizes, find)
    outcome = _read_outcome(some, schema)
    outcome["grouping_key"] = torch.from_numpy(some.scalars(schema.request.grouping_key).astype(np.int64))
    count = torch.tensor(float(len(outcome["labels"])), dtype=torch.float32)
    beside = {name: tensor for of in events.values() for name, tensor in of.tensors.items()}
    return HostBatch(
        tensors=TransferBuffer.of({**tokens.tensors, **beside, **outcome, "candidates_per_rank": count}),
        num_unique=tokens.num_unique,
        bits=tokens.bits,
        counts=tokens.counts,
        side={of.name: tuple(of.side) for of in schema.sequences} | {CANDIDATE: tuple(schema.candidate.side)},
        plain_bytes=sum(of.plain_bytes for of in events.values())
        + 12 * len(context) * len(some.rows)
        + sum(tensor.nbytes for tensor in outcome.values()),
    )


def empty_batch(schema: Schema) -> HostBatch:
    """A batch without requests, for a rank without more rows: every length is 0, the keys are the usual ones."""
    return collate(arrow_schema(schema).empty_table(), schema)


def _read_outcome(some: _Selection, schema: Schema) -> dict[str, Tensor]:
    """`labels`, and `oracle` and `visible_events` if the schema has them."""

    def columns(names: list[str]) -> Tensor:
        values = [some.lists(name).values.astype(np.float32) for name in names]
        return torch.from_numpy(np.stack(values, axis=1))

    names = schema.candidate.labels
    labels = [f"{CANDIDATE}.{label}" for label in names]
    observed = columns(labels)
    for task, condition in schema.candidate.given.items():
        observed[observed[:, names.index(condition)] == 0, names.index(task)] = torch.nan
    outcome = {"labels": observed}
    if schema.candidate.oracle:
        outcome["oracle"] = columns([f"{label}.oracle" for label in labels])
    if schema.candidate.visible_events:
        visible = some.lists(f"{CANDIDATE}.visible_events").values
        outcome["visible_events"] = torch.from_numpy(visible.astype(np.int32))
    return outcome


def _read_events(
    some: _Selection,
    owner: str,
    declared: SequenceSchema | CandidateSchema,
    now: Ints | None,
    max_length: int | None,
) -> _Events:
    """Ages count back from `now` (B,) seconds; without it there are none."""

    def column(name: str) -> _Lists:
        return some.lists(f"{owner}.{name}", max_length)

    lengths = column(declared.ids[0].name).lengths
    tensors = {f"lengths.{owner}": torch.from_numpy(lengths.astype(np.int32))}
    for name, size in declared.side.items():
        kind = np.uint8 if size <= 2**8 else np.int16
        tensors[f"side.{owner}.{name}"] = torch.from_numpy(column(name).values.astype(kind, copy=False))
    if now is not None:
        times = column("time")
        ages = gather_ages(times.entries.astype(np.int64, copy=False), times.starts, times.lengths, now)
        tensors[f"age.{owner}"] = torch.from_numpy(ages)
    # As int64 KeyedJaggedTensors: 8 bytes per value, 4 bytes of length per request, for every field and the time.
    plain_bytes = (len(declared.ids) + len(tensors) - 1) * (8 * int(lengths.sum()) + 4 * len(lengths))
    return _Events([column(field.name).values for field in declared.ids], tensors, plain_bytes)
