"""Requests in parts: the events of users without a request, and a request without events.

Legend: B requests.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import Column, Ints, arrow_schema, columns_of, list_column, ragged_values
from dist_rec.data.schema import Schema

NO_TIME = -(2**63)


def serving_schema(schema: Schema) -> Schema:
    """The same as a server reads it: no labels, no feedback, nothing of filters, all events in their request, which all
    candidates see."""
    plain = {"score": False, "reason": False}
    candidate = schema.candidate.model_copy(
        update={**plain, "visible_events": False, "oracle": False, "labels_read": False, "feedback": None}
    )
    sequences = [of.model_copy(update={**plain, "once": False}) for of in schema.sequences]
    return schema.model_copy(update={"candidate": candidate, "sequences": sequences})


def is_of_events(column: Column, schema: Schema) -> bool:
    return column.owner in {of.name for of in schema.sequences}


def event_columns(schema: Schema) -> list[str]:
    """Names of the columns of all sequences."""
    return [column.name for column in columns_of(schema) if is_of_events(column, schema)]


def events_sent(requests: pa.Table, schema: Schema) -> dict[str, Ints]:
    """How many events of each sequence (B,) there are in requests."""
    first = {column.owner: column.name for column in reversed(columns_of(schema)) if is_of_events(column, schema)}
    return {of.name: ragged_values(requests, first[of.name]).lengths for of in schema.sequences}


def same_events(one: pa.Table, other: pa.Table, schema: Schema) -> bool:
    """Whether the rows are the same events; a number that is missing is as another one that is."""
    if one.equals(other):
        return True
    pairs = ((ragged_values(one, name), ragged_values(other, name)) for name in event_columns(schema))
    return all(np.array_equal(a.lengths, b.lengths) and same_values(a.values, b.values) for a, b in pairs)


def same_values(one: NDArray, other: NDArray) -> bool:
    return np.array_equal(one, other, equal_nan=one.dtype.kind == "f")


def newest_time(events: pa.Table, schema: Schema) -> int:
    """Of the events of one user, in seconds; before all others where none has a time."""
    found = [events.column(f"{of.name}.time")[0] for of in schema.sequences if of.time]
    return max((times[-1].as_py() for times in found if len(times)), default=NO_TIME)


def filled(columns: Mapping[str, pa.Array | pa.ChunkedArray], count: int, schema: Schema) -> pa.Table:
    """A table of `count` rows with all columns of the schema: where none is given, zeros and empty lists."""
    types = arrow_schema(schema)
    found = [columns[of.name] if of.name in columns else _nothing(of, count) for of in types]
    return pa.table(found, schema=types)


def _nothing(of: pa.Field, count: int) -> pa.Array:
    if pa.types.is_list(of.type):
        offsets = pa.array(np.zeros(count + 1, np.int32))
        return pa.ListArray.from_arrays(offsets, pa.array([], of.type.value_type))
    return pa.array(np.zeros(count, np.int64)).cast(of.type)


def newest(events: pa.Table, schema: Schema, most: int | None) -> pa.Table:
    """At most so many newest events of every sequence; None: all."""
    if most is None:
        return events
    found: dict[str, Any] = {}
    for name in event_columns(schema):
        of = ragged_values(events, name)
        keep = np.minimum(of.lengths, most)
        if (keep == of.lengths).all():
            found[name] = events.column(name)
            continue
        values = [of.values[end - n : end] for end, n in zip(of.offsets[1:], keep, strict=True)]
        found[name] = list_column(keep, np.concatenate(values))
    return pa.table(found)


def appended(before: pa.Table, more: pa.Table, schema: Schema) -> pa.Table:
    """The events of users, row by row, with others after them."""
    found: dict[str, pa.Array] = {}
    for name in event_columns(schema):
        first, then = ragged_values(before, name), ragged_values(more, name)
        parts = []
        for row in range(before.num_rows):
            parts.append(first.values[first.offsets[row] : first.offsets[row + 1]])
            parts.append(then.values[then.offsets[row] : then.offsets[row + 1]])
        found[name] = list_column(first.lengths + then.lengths, np.concatenate([*parts, first.values[:0]]))
    return pa.table(found)
