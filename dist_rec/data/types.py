"""Arrow types that can hold a field, and their conversion to the plain types of the writer.

Other writers use large or fixed-size lists, dictionaries, timestamps and unsigned hashes for the same values."""

import pyarrow as pa
from pyarrow import types

from dist_rec.data.columns import Column, columns_of
from dist_rec.data.schema import Schema

_FLOATS = ("oracle", "score")
_WIDE = pa.float64()  # of numbers, until they are known to be numbers of float32
# Not list views: pyarrow 25 casts them to lists whose last offset is missing.
LISTS = (types.is_list, types.is_large_list, types.is_fixed_size_list)


def fits(column: Column, kind: pa.DataType) -> bool:
    """Whether a column of this type can hold the field. The null type can: a list column without entries has it."""
    for _ in range(column.is_list + column.nested):
        if types.is_null(kind):
            return column.nested
        if not _is_list(kind):
            return False
        kind = kind.value_type
    if types.is_dictionary(kind):
        kind = kind.value_type
    if types.is_null(kind):
        return True
    if column.kind == "number":
        return types.is_integer(kind) or types.is_floating(kind) or types.is_decimal(kind)
    if types.is_integer(kind):
        return column.kind not in _FLOATS
    if column.kind == "label":
        return types.is_floating(kind) or types.is_boolean(kind)
    if column.kind == "time":
        return _is_moment(kind)
    return column.kind in _FLOATS and types.is_floating(kind)


def wanted(column: Column) -> str:
    """The types that `fits` accepts, for a message."""
    kinds = {"label": "0/1 numbers", "time": "integers (seconds) or timestamps"} | dict.fromkeys(_FLOATS, "floats")
    value = "numbers" if column.kind == "number" else kinds.get(column.kind, "integers")
    hint = " (number other ids, or hash them to 64 bits)" if column.kind == "grouping_key" else ""
    value = f"lists of {value}" if column.nested else value
    return f"a list of {value}" if column.is_list else value + hint


def has_zone(kind: pa.DataType) -> bool | None:
    """Whether timestamps of this type, or in lists of this type, have a time zone; None for other types."""
    value = kind.value_type if _is_list(kind) else kind
    value = value.value_type if types.is_dictionary(value) else value
    return value.tz is not None if types.is_timestamp(value) else None


def plain(table: pa.Table, schema: Schema) -> pa.Table:
    """The columns of a schema as int, float or bool, or as plain lists of these types; nulls stay. Numbers are float64.

    Timestamps and dates become whole seconds since 1970 (int64, fractions dropped); a timestamp without a zone counts
    as UTC. Unsigned 64-bit grouping keys and raw ids become int64 of the same bits. Every column must fit."""
    columns = columns_of(schema)
    return pa.table({column.name: _plain(table.column(column.name), column) for column in columns})


def _plain(values: pa.ChunkedArray, column: Column) -> pa.ChunkedArray:
    kind = values.type
    if column.nested:
        return values.cast(pa.list_(pa.list_(pa.int64())), safe=False)
    value = kind.value_type if column.is_list else kind
    if types.is_dictionary(value):
        value = value.value_type
    if column.kind == "number":
        value = _WIDE
    elif _is_moment(value):
        seconds = pa.timestamp("s", tz=value.tz if types.is_timestamp(value) else None)
        values = values.cast(pa.list_(seconds) if column.is_list else seconds, safe=False)
        value = pa.int64()
    elif types.is_null(value):
        value = column.arrow_type.value_type if column.is_list else column.arrow_type
    elif types.is_uint64(value) and column.kind in ("grouping_key", "raw_id"):
        value = pa.int64()
    target = pa.list_(value) if column.is_list else value
    return values if values.type == target else values.cast(target, safe=False)


def _is_list(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in LISTS)


def _is_moment(kind: pa.DataType) -> bool:
    return types.is_timestamp(kind) or types.is_date(kind)
