"""Requests of a dataset as a server gets them: with all their events inside, and one moment for all candidates.

Legend: B requests, C candidates.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa

from dist_rec.config import Config
from dist_rec.data.columns import CANDIDATE, Ints, columns_of, list_column, ragged_values
from dist_rec.data.gather import Lists
from dist_rec.data.row_reader import RowReader
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from dist_rec.predict.source import of_folder
from dist_rec.registry import READERS
from dist_rec.serve.columns import is_of_events


def first_requests(config: Config, schema: Schema, folder: Path, count: int) -> pa.Table:
    """The first requests of a folder as it is read, at most `count`. `schema` without labels.

    Raises DataError if there are none or they cannot be read."""
    config, split = of_folder(config, folder)
    rows: RowReader = READERS.make(config.data.reader)
    place = Path(config.data.path) / split
    found: list[pa.Table] = []
    for group in rows.row_groups(place, schema):
        found.append(rows.read([group], schema))
        if sum(table.num_rows for table in found) >= count:
            break
    return pa.concat_tables(found).slice(0, count).combine_chunks()


def as_asked(table: pa.Table, schema: Schema, served: Schema) -> tuple[pa.Table, Ints]:
    """The same requests in the columns of `served`, and of each the row of `table` (B,) that it is of.

    Candidates that see a part of the events are in a request of their own, with these events alone."""
    whole = SomeRows(table, np.arange(table.num_rows))
    if not schema.candidate.visible_events:
        return _table(whole, served, None), whole.rows
    visible = ragged_values(table, f"{CANDIDATE}.visible_events")
    of_each = np.repeat(whole.rows, visible.lengths)
    return _table(SomeRows(table, of_each), served, (visible.values.astype(np.int64), of_each)), of_each


def _table(some: SomeRows, served: Schema, each: tuple[Ints, Ints] | None) -> pa.Table:
    """`each`: how many events the one candidate of each request sees, and the row of each; None: all of them."""
    found: dict[str, pa.Array] = {}
    for column in columns_of(served):
        if not column.is_list:
            found[column.name] = pa.array(some.scalars(column.name)).cast(column.arrow_type)
            continue
        if column.nested:
            found[column.name] = some.table.column(column.name).take(pa.array(some.rows)).combine_chunks()
            continue
        of = some.lists(column.name)
        if each is not None and is_of_events(column, served):
            of = Lists(of.entries, of.starts, each[0])
        elif each is not None and column.owner == CANDIDATE:
            first = np.concatenate([[0], np.cumsum(np.unique(each[1], return_counts=True)[1])])
            number = np.arange(len(each[1])) - first[np.unique(each[1], return_inverse=True)[1]]
            of = Lists(of.entries, of.starts + number, np.ones_like(of.lengths))
        found[column.name] = list_column(of.lengths, of.values).cast(column.arrow_type)
    return pa.table(found)
