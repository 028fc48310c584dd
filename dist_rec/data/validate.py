"""Checks of data files. A `DataError` names file, row group, row, field, what was expected and what came."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from dist_rec.data.columns import (
    CANDIDATE,
    Column,
    Ragged,
    arrow_schema,
    columns_of,
    known_events,
    one_array,
    ragged_values,
    scalar_values,
    with_nan,
)
from dist_rec.data.errors import READ_ERRORS, DataError, one_line, reading
from dist_rec.data.later import FEEDBACK
from dist_rec.data.nested import Nested, first_problem
from dist_rec.data.older_words import stored_names
from dist_rec.data.schema import Schema
from dist_rec.data.times import EXPECTED, Span, mixed_units, other_unit, outlier
from dist_rec.data.types import fits, has_zone, plain, wanted

PARQUET_MAGIC = b"PAR1"
NULL_LIST = re.compile(r"Expected all lists to be of size=\d+ but index (\d+) had size=0")


def open_parquet(path: Path, schema: Schema) -> pq.ParquetFile:
    """Opens a data file and reads its footer only. A file without rows may have any columns.

    Raises DataError if the file is missing, empty, truncated, not Parquet or unreadable, if a column is missing, or if
    the type of a column cannot hold its field."""
    with reading(path):
        if not path.is_file():
            raise DataError(f"{path}: expected a Parquet file, got {_what_is_there(path)}")
        size = path.stat().st_size
        with path.open("rb") as stream:
            head = stream.read(4)
            stream.seek(max(0, size - 4))
            tail = stream.read(4)
    if size == 0:
        raise DataError(f"{path}: expected a Parquet file, got an empty file (0 bytes)")
    if head != PARQUET_MAGIC:
        raise DataError(f"{path}: expected a Parquet file (first bytes {PARQUET_MAGIC!r}), got {head!r}")
    if tail != PARQUET_MAGIC or size < 12:
        raise DataError(
            f"{path}: expected Parquet's end mark {PARQUET_MAGIC!r}, got {tail!r}; truncated at {size} bytes"
        )
    try:
        file = pq.ParquetFile(path, pre_buffer=False)
        if file.metadata.num_rows == 0:
            return file
        found = file.schema_arrow
    except READ_ERRORS as error:
        expected = "expected a readable Parquet footer"
        raise DataError(f"{path}: {expected}, got: {one_line(error)}; the file is damaged") from error
    check_columns(in_todays_words(found, schema), schema, file=path)
    return file


def read_row_group(file: pq.ParquetFile, schema: Schema, *, path: Path, row_group: int) -> pa.Table:
    """One row group, validated, with the column types of `arrow_schema`.

    Raises DataError, also if the bytes of the group are damaged."""
    names = [column.name for column in columns_of(schema)]
    stored = stored_names(names, file.schema_arrow.names)
    try:
        # Threads of pyarrow compete with the other workers for the cores, and do not survive a fork.
        table = file.read_row_group(row_group, columns=stored, use_threads=False).select(stored).rename_columns(names)
    except READ_ERRORS as error:
        place = _Place(f"{path}, row group {row_group}")
        for name, column in zip(names, stored, strict=True):
            if (row := _null_of_one_length(file, column, row_group)) is not None:
                raise place.error(row, name, "a list", "null") from error
        raise DataError(f"{place.where}: expected readable column data, got: {one_line(error)}") from error
    return validate(table, schema, file=path, row_group=row_group)


def in_todays_words(found: pa.Schema, schema: Schema) -> pa.Schema:
    """The Arrow schema of a file with older column names (older_words.py) renamed."""
    names = [column.name for column in columns_of(schema)]
    today = dict(zip(stored_names(names, found.names), names, strict=True))
    return pa.schema([field.with_name(today.get(field.name, field.name)) for field in found], found.metadata)


def _null_of_one_length(file: pq.ParquetFile, name: str, row_group: int) -> int | None:
    """The first row with a null in a column of fixed-size lists: Arrow writes such nulls, but does not read them."""
    if pa.types.is_fixed_size_list(file.schema_arrow.field(name).type):
        try:
            file.read_row_group(row_group, columns=[name], use_threads=False)
        except READ_ERRORS as error:
            found = NULL_LIST.search(str(error))
            return int(found[1]) - 1 if found else None  # Arrow counts from 1 here
    return None


def check_columns(found: pa.Schema, schema: Schema, *, file: str | Path) -> None:
    """Raises DataError if a column is missing or of a wrong type, or if only some timestamps have a time zone."""
    zones: dict[bool, str] = {}
    for column in columns_of(schema):
        indices = found.get_all_field_indices(column.name)
        if len(indices) != 1:
            got = f"{len(indices)} of that name" if indices else f"only {', '.join(found.names) or 'no columns'}"
            in_path = next((part for part in Path(file).parts if part.startswith(f"{column.name}=")), None)
            hint = f"; {in_path} of the path is not read, write it as a column" if in_path and not indices else ""
            raise DataError(f"{file}, field {column.name}: expected a column of that name, got {got}{hint}")
        kind = found.field(indices[0]).type
        if not fits(column, kind):
            raise DataError(f"{file}, field {column.name}: expected {wanted(column)}, got {kind}")
        if column.kind == "time" and (zone := has_zone(kind)) is not None:
            zones[zone] = column.name
    if len(zones) == 2:
        raise DataError(
            f"{file}, field {zones[False]}: expected timestamps with a time zone, as {zones[True]} has, got none"
        )


def validate(table: pa.Table, schema: Schema, *, file: str | Path, row_group: int) -> pa.Table:
    """Checks one row group and returns the columns of `arrow_schema`, in its types.

    Raises DataError for the first problem; rows count from 0 within the row group. Checked are: columns and types;
    nulls; ids and side values within their tables; equal lengths of the fields of a sequence and of the candidates;
    labels 0 or 1; oracle and score within [0, 1]; visible events within [0, length of the sequence]; event times
    ascending and not after the request; times in seconds (see times.py); numbers finite, where they are not missing;
    delays of a 1 within their horizon; feedback events counted right, their times ascending and not before the request.
    A request without candidates is allowed."""
    place = _Place(f"{file}, row group {row_group}")
    check_columns(table.schema, schema, file=place.where)
    table = plain(table, schema)
    lists: dict[str, dict[str, Ragged]] = {}
    for column in columns_of(schema):
        _check_nulls(place, table, column)
        if column.nested:
            if (problem := first_problem(table, column)) is not None:
                raise place.error(problem[0], column.name, *problem[1:])
            candidates = Nested.of(table, column.name).rows
            lists.setdefault(column.owner, {})[column.name] = Ragged(np.empty(0), candidates - candidates[0])
        elif column.is_list:
            ragged = ragged_values(table, column.name)
            _check_values(place, column, ragged.values, ragged)
            lists.setdefault(column.owner, {})[column.name] = ragged
        else:
            _check_values(place, column, scalar_values(table, column.name), None)
        if column.kind == "number":
            table = with_nan(table, column)
    for fields in lists.values():
        _check_lengths(place, fields)
    for sequence in schema.sequences:
        if sequence.time and not sequence.once and schema.request.time is not None:
            times = lists[sequence.name][f"{sequence.name}.time"]
            now = scalar_values(table, schema.request.time)
            _check_times(place, f"{sequence.name}.time", times, schema.request.time, now)
    if schema.candidate.visible_events:
        of = schema.sequences[0]
        events = known_events(table, of.name) if of.once else next(iter(lists[of.name].values()))
        _check_visible_events(place, lists[CANDIDATE][f"{CANDIDATE}.visible_events"], events)
    _check_delays(place, schema, lists[CANDIDATE])
    if schema.feedback_read is not None:
        _check_feedback(place, schema, lists[CANDIDATE][f"{CANDIDATE}.feedback_events"], lists[FEEDBACK], table)
    return table.cast(arrow_schema(schema))


@dataclass(frozen=True)
class _Place:
    where: str

    def error(self, row: int, field: str, expected: str, got: Any) -> DataError:
        return DataError(f"{self.where}, row {row}, field {field}: expected {expected}, got {got}")

    def entry_error(self, ragged: Ragged, index: int, field: str, expected: str, got: Any) -> DataError:
        """For the value at `index` of a list column."""
        row = ragged.row_of(index)
        return self.error(row, field, expected, f"{got} at entry {index - ragged.offsets[row]}")


def _check_nulls(place: _Place, table: pa.Table, column: Column) -> None:
    array = one_array(table, column.name)
    if array.null_count and (column.is_list or column.kind != "number"):
        row = int(np.argmax(array.is_null().to_numpy(zero_copy_only=False)))
        raise place.error(row, column.name, "a list" if column.is_list else "a value", "null")
    if column.is_list and not column.nested and column.kind != "number" and (values := array.flatten()).null_count:
        index = int(np.argmax(values.is_null().to_numpy(zero_copy_only=False)))
        offsets = array.offsets.to_numpy().astype(np.int64)
        ragged = Ragged(np.empty(0), offsets - offsets[0])
        raise place.entry_error(ragged, index, column.name, "a value for every entry", "null")


def _check_values(place: _Place, column: Column, values: NDArray, ragged: Ragged | None) -> None:
    got: Any = None
    if column.kind == "id":
        bad, expected = (values < 0) | (values >= column.size), f"an id from 0 to {(column.size or 0) - 1}"
    elif column.kind == "number":
        with np.errstate(over="ignore"):
            bad = np.isinf(values.astype(np.float32))
        expected = "a finite number of float32, or null or NaN where it is missing"
    elif column.kind == "label":
        bad, expected = ~((values == 0) | (values == 1)), "a label of 0 or 1"
    elif column.kind in ("oracle", "score"):
        what = "a probability" if column.kind == "oracle" else "a score"
        bad, expected = ~((values >= 0) & (values <= 1)), f"{what} from 0 to 1"
    elif column.kind == "time" and len(values) and (got := other_unit(extreme := outlier(_span_of(values)))):
        bad, expected = values == extreme, EXPECTED
    else:
        return
    if bad.any():
        index = int(np.argmax(bad))
        got = got or values[index]
        if ragged:
            raise place.entry_error(ragged, index, column.name, expected, got)
        raise place.error(index, column.name, expected, got)


def _check_lengths(place: _Place, fields: dict[str, Ragged]) -> None:
    first, *others = fields
    lengths = fields[first].lengths
    for name in others:
        bad = fields[name].lengths != lengths
        if bad.any():
            row = int(np.argmax(bad))
            expected = f"{lengths[row]} entries as in {first}"
            raise place.error(row, name, expected, f"{fields[name].lengths[row]} entries")


def _span_of(values: NDArray) -> Span:
    return Span(int(values.min()), int(values.max()))


def _check_times(place: _Place, name: str, times: Ragged, request_name: str, request_time: NDArray) -> None:
    values = times.values.astype(np.int64)
    if len(values) and (got := mixed_units(_span_of(request_time), _span_of(values))):
        raise DataError(f"{place.where}, field {name}: expected times in seconds, as in {request_name}, got {got}")
    falls = np.diff(values) < 0
    starts = times.offsets[1:-1]
    falls[starts[(starts > 0) & (starts < len(values))] - 1] = False
    if falls.any():
        index = int(np.argmax(falls)) + 1
        expected = f"times in ascending order (oldest first), at least {values[index - 1]}"
        raise place.entry_error(times, index, name, expected, values[index])
    late = values > np.repeat(request_time.astype(np.int64), times.lengths)
    if late.any():
        index = int(np.argmax(late))
        expected = f"a time not after the request's {request_time[times.row_of(index)]}"
        raise place.entry_error(times, index, name, expected, values[index])


def _check_delays(place: _Place, schema: Schema, candidates: dict[str, Ragged]) -> None:
    for label, of in schema.candidate.delayed.items():
        if of.horizon is None or not of.read or not schema.candidate.labels_read:
            continue
        delays = candidates[f"{CANDIDATE}.{label}.delay"]
        came = candidates[f"{CANDIDATE}.{label}"].values == 1
        bad = came & ((delays.values < 0) | (delays.values > of.horizon))
        if bad.any():
            index = int(np.argmax(bad))
            expected = f"a delay from 0 to the horizon of {of.horizon} seconds where {label} is 1"
            raise place.entry_error(delays, index, f"{CANDIDATE}.{label}.delay", expected, delays.values[index])


def _check_feedback(place: _Place, schema: Schema, counts: Ragged, fields: dict[str, Ragged], table: pa.Table) -> None:
    """`counts`: of the candidates; `fields`: the columns of feedback, of equal lengths."""
    name = f"{CANDIDATE}.feedback_events"
    if (counts.values < -1).any():
        index = int(np.argmax(counts.values < -1))
        expected = "a number of events, 0 for none, -1 for not known"
        raise place.entry_error(counts, index, name, expected, counts.values[index])
    events = counts.values.clip(min=0).astype(np.int64)
    sums = np.concatenate([[0], np.cumsum(events)])[counts.offsets]
    first, of = next(iter(fields.items()))
    bad = np.diff(sums) != of.lengths
    if bad.any():
        row = int(np.argmax(bad))
        expected = f"{of.lengths[row]} events in all, as in {first}"
        raise place.error(row, name, expected, f"{np.diff(sums)[row]}")
    times, now = fields.get(f"{FEEDBACK}.time"), schema.request.time
    if times is None or now is None:
        return
    values = times.values.astype(np.int64)
    request_time = scalar_values(table, now).astype(np.int64)
    if len(values) and (got := mixed_units(_span_of(request_time), _span_of(values))):
        raise DataError(f"{place.where}, field {FEEDBACK}.time: expected times in seconds, as in {now}, got {got}")
    early = values < np.repeat(request_time, times.lengths)
    if early.any():
        index = int(np.argmax(early))
        expected = f"a time not before the request's {request_time[times.row_of(index)]}"
        raise place.entry_error(times, index, f"{FEEDBACK}.time", expected, values[index])
    candidate = np.repeat(np.arange(len(events)), events)
    falls = (np.diff(values) < 0) & (np.diff(candidate) == 0)
    if falls.any():
        index = int(np.argmax(falls)) + 1
        expected = f"times of a candidate in ascending order (oldest first), at least {values[index - 1]}"
        raise place.entry_error(times, index, f"{FEEDBACK}.time", expected, values[index])


def _check_visible_events(place: _Place, visible: Ragged, events: Ragged) -> None:
    limit = np.repeat(events.lengths, visible.lengths)
    bad = (visible.values < 0) | (visible.values > limit)
    if bad.any():
        index = int(np.argmax(bad))
        expected = f"a number of events from 0 to {limit[index]}"
        raise place.entry_error(visible, index, f"{CANDIDATE}.visible_events", expected, visible.values[index])


def _what_is_there(path: Path) -> str:
    if path.is_symlink() and not path.exists():
        return f"a link to {path.readlink()}, where nothing can be read"
    return "a folder" if path.is_dir() else "something that is no file" if path.exists() else "nothing there"
