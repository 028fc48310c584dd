"""Requests of a caller in Python as valid rows: a table, or one dict per request, in the layout of a dataset."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from dist_rec.data.columns import Column, columns_of
from dist_rec.data.errors import READ_ERRORS, DataError, one_line
from dist_rec.data.schema import Schema
from dist_rec.data.validate import validate

Requests = pa.Table | Sequence[Mapping[str, Any]]
WHERE = "requests"
_NUMBERS = ("number", "score")


def valid_rows(requests: Requests, schema: Schema) -> pa.Table:
    """The columns of the schema, in its types, checked as those of a file. Other columns are left out.

    Raises DataError naming row and field, what was expected and what came."""
    if isinstance(requests, pa.Table):
        return validate(requests, schema, file=WHERE, row_group=0)
    if not isinstance(requests, Sequence) or isinstance(requests, str | bytes):
        raise DataError(
            f"{WHERE}: expected a pyarrow.Table, or a list of one dict per request, got {type(requests).__name__}"
        )
    columns = {column.name: _column(requests, column) for column in columns_of(schema)}
    return validate(pa.table(columns), schema, file=WHERE, row_group=0)


def _column(requests: Sequence[Mapping[str, Any]], column: Column) -> pa.Array:
    found = [_value(request, row, column) for row, request in enumerate(requests)]
    kinds = [pa.float64()] if column.kind in _NUMBERS else [pa.int64(), pa.uint64()]
    kinds = [pa.list_(kind) if column.nested else kind for kind in kinds]
    for kind in kinds:
        try:
            return pa.array(found, pa.list_(kind) if column.is_list else kind)
        except (*READ_ERRORS, TypeError):
            continue
    try:
        return pa.array(found)  # times as datetimes; and for other types the check of columns has the words
    except (*READ_ERRORS, TypeError) as error:
        raise DataError(
            f"{WHERE}, field {column.name}: expected {column.arrow_type} in every request, got: {one_line(error)}"
        ) from None


def _value(request: Any, row: int, column: Column) -> Any:
    if not isinstance(request, Mapping):
        raise DataError(f"{WHERE}, row {row}: expected a dict, got {type(request).__name__}")
    if column.name not in request:
        there = ", ".join(map(str, request)) or "nothing"
        raise DataError(f"{WHERE}, row {row}, field {column.name}: expected a value, got none beside {there}")
    return request[column.name]
