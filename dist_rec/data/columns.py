"""The columns of a dataset file (names, types and sizes, from its schema), and list columns as numpy arrays."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.common.strict import ConfigError
from dist_rec.data.filter.actions import ALL_REASONS
from dist_rec.data.id_field import IdField
from dist_rec.data.later import FEEDBACK
from dist_rec.data.owners import SequenceSchema
from dist_rec.data.schema import Schema

Ints = NDArray[np.int64]
Kind = (
    Literal["id", "raw_id", "time", "number", "grouping_key", "visible_events", "score"]
    | Literal["label", "oracle", "delay", "feedback_events"]
    | Literal["events_of_user", "known_events"]
)
REQUEST = "request"
CANDIDATE = "candidate"
CONTEXT = "context"


@dataclass(frozen=True)
class Column:
    """One column: `owner` is "request" (one value per row), or a sequence, "candidate", "feedback" or "context.<name>"
    (a list per row). With `nested` every entry is a list of ids."""

    name: str
    owner: str
    kind: Kind
    size: int | None = None  # ids are 0 .. size - 1; of raw ids the number that the table holds
    nested: bool = False

    @property
    def is_list(self) -> bool:
        return self.owner != REQUEST

    @property
    def arrow_type(self) -> pa.DataType:
        """The type in files of the writer; readers accept others (types.py)."""
        kinds = {
            "time": pa.int64(),
            "grouping_key": pa.int64(),
            "raw_id": pa.int64(),
            "label": pa.int8(),
            "oracle": pa.float32(),
            "visible_events": pa.int32(),
            "feedback_events": pa.int32(),
            "events_of_user": pa.int64(),
            "known_events": pa.int64(),
            "delay": pa.int64(),  # where the label is 0 any number may stand
            "score": pa.float16(),
            "number": pa.float32(),  # NaN where it is missing
        }
        value = kinds.get(self.kind) or _id_type(self.size or 2**31)
        value = pa.list_(value) if self.nested else value
        return pa.list_(value) if self.is_list else value


def columns_of(schema: Schema) -> list[Column]:
    """Every column that a file of this schema must have, without labels and feedback that are not read. A grouping key
    that is also a context field is one column.

    Raises ConfigError if two other fields share a column."""
    candidate, tables = schema.candidate, schema.tables
    columns = [_of_field(schema, field, REQUEST, field.name) for field in schema.context]
    if schema.request.grouping_key not in {column.name for column in columns}:
        columns.append(Column(schema.request.grouping_key, REQUEST, "grouping_key"))
    if schema.request.time is not None:
        columns.append(Column(schema.request.time, REQUEST, "time"))
    columns += [Column(name, REQUEST, "number") for name in schema.request.numbers]
    columns += [Column(name, f"{CONTEXT}.{name}", "id", tables[of.table]) for name, of in schema.request.lists.items()]
    once = [sequence.name for sequence in schema.sequences if sequence.once]
    for name in once:
        columns += [
            Column(f"{name}.user", REQUEST, "events_of_user"),
            Column(f"{name}.events", REQUEST, "known_events"),
        ]
    stored = [(sequence.name, sequence) for sequence in schema.sequences if not sequence.once]
    for owner, of in [*stored, (CANDIDATE, candidate)]:
        columns += [_of_field(schema, field, owner, f"{owner}.{field.name}") for field in of.ids]
        columns += [Column(f"{owner}.{name}", owner, "id", size) for name, size in of.side.items()]
        columns += [Column(f"{owner}.{name}", owner, "number") for name in of.numbers]
        if isinstance(of, SequenceSchema) and of.time:
            columns.append(Column(f"{owner}.time", owner, "time"))
        columns += [Column(f"{owner}.score", owner, "score")] if of.score else []
        columns += [Column(f"{owner}.reason", owner, "id", ALL_REASONS + 1)] if of.reason else []
    for name, of in candidate.lists.items():
        columns.append(Column(f"{CANDIDATE}.{name}", CANDIDATE, "id", tables[of.table], nested=True))
    labels = [f"{CANDIDATE}.{label}" for label in candidate.labels if candidate.labels_read]
    columns += [Column(label, CANDIDATE, "label") for label in labels]
    columns += [Column(f"{label}.oracle", CANDIDATE, "oracle") for label in labels if candidate.oracle]
    if candidate.visible_events:
        columns.append(Column(f"{CANDIDATE}.visible_events", CANDIDATE, "visible_events"))
    columns += _known_later(schema)
    names = [column.name for column in columns]
    if twice := ", ".join(sorted({name for name in names if names.count(name) > 1})):
        raise ConfigError(f"schema {schema.name}: expected one field per column, got several named {twice}")
    return columns


def _of_field(schema: Schema, field: IdField, owner: str, name: str) -> Column:
    return Column(name, owner, "raw_id" if field.table in schema.open_ids else "id", schema.tables[field.table])


def _known_later(schema: Schema) -> list[Column]:
    candidate, feedback = schema.candidate, schema.feedback_read
    columns = [
        Column(f"{CANDIDATE}.{label}.matured", CANDIDATE, "label")
        if of.horizon is None
        else Column(f"{CANDIDATE}.{label}.delay", CANDIDATE, "delay")
        for label, of in candidate.delayed.items()
        if of.read and candidate.labels_read
    ]
    if feedback is None:
        return columns
    columns.append(Column(f"{CANDIDATE}.feedback_events", CANDIDATE, "feedback_events"))
    columns += [_of_field(schema, field, FEEDBACK, f"{FEEDBACK}.{field.name}") for field in feedback.ids]
    columns += [Column(f"{FEEDBACK}.{name}", FEEDBACK, "id", size) for name, size in feedback.side.items()]
    return columns + ([Column(f"{FEEDBACK}.time", FEEDBACK, "time")] if feedback.time else [])


def arrow_schema(schema: Schema) -> pa.Schema:
    """Columns and Arrow types of the files of the writer."""
    return pa.schema([pa.field(column.name, column.arrow_type) for column in columns_of(schema)])


@dataclass(frozen=True)
class FlatLists:
    """Lists of ids: (M,) values one list after the other, and the (N,) int64 lengths of the lists."""

    values: NDArray
    lengths: Ints


@dataclass(frozen=True)
class Ragged:
    """A list column of B rows: `values` (N,), `offsets` (B + 1,) int64 from 0 to N."""

    values: NDArray
    offsets: Ints

    @property
    def lengths(self) -> Ints:
        """(B,) int64"""
        return np.diff(self.offsets)

    def row_of(self, index: int) -> int:
        """The row that holds `values[index]`."""
        return int(np.searchsorted(self.offsets, index, side="right")) - 1


def scalar_values(table: pa.Table, name: str) -> NDArray:
    """(B,) values of a column with one value per row, without nulls."""
    return one_array(table, name).to_numpy(zero_copy_only=False)


def ragged_values(table: pa.Table, name: str) -> Ragged:
    """A list column without nulls."""
    array = one_array(table, name)
    offsets = array.offsets.to_numpy().astype(np.int64)
    values = array.flatten()
    plain = values.cast(pa.uint8()) if pa.types.is_boolean(values.type) else values
    return Ragged(plain.to_numpy(zero_copy_only=False), offsets - offsets[0])


def known_events(table: pa.Table, sequence: str) -> Ragged:
    """How many events each row knows of a sequence that is stored once, as a list column without values."""
    events = scalar_values(table, f"{sequence}.events").astype(np.int64)
    return Ragged(np.empty(0), np.concatenate([[0], np.cumsum(events)]))


def one_array(table: pa.Table, name: str) -> pa.Array:
    """A column as one contiguous array, however the table is chunked."""
    chunked = table.column(name)
    if chunked.num_chunks == 1:
        return chunked.chunk(0)
    return pa.concat_arrays(chunked.chunks or [pa.array([], chunked.type)])


def list_column(lengths: Ints, values: NDArray) -> pa.Array:
    """A list column of B rows from (B,) lengths and the (N,) values of all rows."""
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


def with_nan(table: pa.Table, column: Column) -> pa.Table:
    """The same with a column of numbers as float32, NaN in the place of nulls."""
    if column.is_list:
        ragged = ragged_values(table, column.name)
        found = list_column(ragged.lengths, ragged.values.astype(np.float32))
    else:
        found = pa.array(scalar_values(table, column.name).astype(np.float32))
    return table.set_column(table.column_names.index(column.name), column.name, found)


def expand_ranges(starts: Ints, lengths: Ints) -> tuple[Ints, Ints]:
    """Range number and index of each of the N elements of `starts[b] : starts[b] + lengths[b]`, both (N,) int64."""
    row = np.repeat(np.arange(len(lengths)), lengths)
    return row, np.arange(len(row)) + (starts - np.cumsum(lengths) + lengths)[row]


def _id_type(size: int) -> pa.DataType:
    return pa.uint8() if size <= 2**8 else pa.int16() if size <= 2**15 else pa.int32()
