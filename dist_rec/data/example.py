"""Rows of any schema, of given sizes and with valid values that mean nothing."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.attribute_store import AttributeStore
from dist_rec.data.columns import CANDIDATE, Column, FlatLists, Ints, arrow_schema, columns_of, list_column
from dist_rec.data.later import FEEDBACK
from dist_rec.data.nested import nested_column
from dist_rec.data.schema import Schema


@dataclass(frozen=True)
class ListSize:
    """`mean` ids of a list; `unique`: distinct ids over ids."""

    mean: float = 2.0
    unique: float = 1.0

    def lists(self, count: int, size: int) -> FlatLists:
        """So many lists, as equal as they can be, of ids of a table of `size`."""
        ends = np.rint(np.arange(count + 1) * self.mean).astype(np.int64)
        distinct = max(round(float(ends[-1]) * self.unique), 1)
        return FlatLists(np.arange(ends[-1]) % distinct % size, np.diff(ends))


@dataclass(frozen=True)
class ExampleAttributes(AttributeStore):
    """Attributes that mean nothing of any ids: zeros, and lists of the sizes by table and name, or of two ids."""

    sizes: Mapping[tuple[str, str], ListSize] = field(default_factory=dict)

    def numbers(self, table: str, name: str, ids: Ints) -> NDArray[np.float32]:
        return np.zeros(len(ids), np.float32)

    def vectors(self, table: str, name: str, ids: Ints) -> NDArray[np.float16]:
        return np.zeros((len(ids), self.schema.attributes[table][name].vector or 0), np.float16)

    def lists(self, table: str, name: str, ids: Ints) -> FlatLists:
        size = self.schema.tables[self.schema.attributes[table][name].list or ""]
        return self.sizes.get((table, name), ListSize()).lists(len(ids), size)

    @classmethod
    def of(cls, schema: Schema, sizes: Mapping[tuple[str, str], ListSize] | None = None) -> "ExampleAttributes":
        return cls(Path("example"), schema, sizes or {})


def example_rows(schema: Schema, *, requests: int, events: int, candidates: int) -> pa.Table:
    """`requests` rows with `events` in every sequence and `candidates` each. Ids count up through their tables."""
    schema = schema.with_copies()
    types = arrow_schema(schema)
    of_candidates = (CANDIDATE,) if schema.feedback_read is None else (CANDIDATE, FEEDBACK)  # an event of each

    def array(column: Column) -> pa.Array:
        length = 1 if not column.is_list else candidates if column.owner in of_candidates else events
        values = np.zeros(requests * length, np.int64)
        if column.kind == "visible_events":
            values[:] = events
        elif column.kind == "feedback_events":
            values[:] = 1
        elif column.size is not None:
            values = np.arange(requests * length) % column.size
        if column.nested:  # two ids each
            ids = FlatLists(np.repeat(values, 2), np.full(len(values), 2))
            return nested_column(np.full(requests, length), ids).cast(types.field(column.name).type)
        found = list_column(np.full(requests, length), values) if column.is_list else pa.array(values)
        return found.cast(types.field(column.name).type)

    return pa.table([array(column) for column in columns_of(schema)], schema=types)
