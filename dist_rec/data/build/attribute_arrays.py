"""Numbers, lists and vectors of ids, as arrays with a row for every number of an id, or every id of an open table."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.database import Database, quoted
from dist_rec.data.build.numbering import Numbers
from dist_rec.data.build.roles import attributes

ROWS_AT_ONCE = 50_000


@dataclass(frozen=True)
class TableArrays:
    """Attributes of a table, as `write_attributes` takes them: name -> array, and the raw ids of an open table."""

    rows: int
    ids: NDArray[np.int64] | None
    arrays: dict[str, Any] = field(default_factory=dict)

    def places(self, ids: NDArray) -> NDArray:
        """Rows of ids that have one."""
        return ids if self.ids is None else np.searchsorted(self.ids, ids)


def attribute_arrays(database: Database, config: BuildConfig, numbers: Numbers) -> dict[str, TableArrays]:
    """By table. Ids that share a number, and those without a row, have missing numbers, empty lists and zeros."""
    found: dict[str, TableArrays] = {}
    for source, of in config.attributes.items():
        what = f"the attributes of {source}"
        if of.of not in found:
            ids = _open_ids(database, config, numbers, of.of) if numbers.is_open(of.of) else None
            found[of.of] = TableArrays(numbers.sizes[of.of] if ids is None else len(ids), ids)
        here = found[of.of]
        relation = f"{quoted(attributes(source))} a {numbers.keyed(of.of)}"
        for name in of.numbers:
            here.arrays[name] = np.full(here.rows, np.nan, np.float32)
            for ids, values in _given(database, numbers.key_of(of.of), f"number {name}", relation, what):
                here.arrays[name][here.places(ids)] = values
        for name, vector in of.vectors.items():
            here.arrays[name] = np.zeros((here.rows, vector.dim), np.float16)
            for ids, values in _given(database, numbers.key_of(of.of), f"vector {name}", relation, what):
                here.arrays[name][here.places(ids)] = values.reshape(-1, vector.dim)
        for name, of_list in of.lists.items():
            here.arrays[name] = _lists(database, numbers, f"list {name}", (of.of, of_list.table), relation, here, what)
    return {table: of for table, of in found.items() if of.arrays}


def _open_ids(database: Database, config: BuildConfig, numbers: Numbers, table: str) -> NDArray[np.int64]:
    """Of all sources with attributes of an open table, ascending."""
    each = [
        f"SELECT {numbers.key_of(table)} AS id FROM {quoted(attributes(source))} a {numbers.keyed(table)}"
        for source, of in config.attributes.items()
        if of.of == table
    ]
    query = f"SELECT DISTINCT id::BIGINT AS id FROM ({' UNION ALL '.join(each)}) WHERE id IS NOT NULL ORDER BY id"
    parts = [batch.column("id").to_numpy() for batch in database.stream(query, f"the ids of {table}", ROWS_AT_ONCE)]
    return np.concatenate([np.zeros(0, np.int64), *parts])


def _given(database: Database, key: str, column: str, relation: str, what: str) -> Iterator[tuple[NDArray, NDArray]]:
    """Ids that are not missing in a column, and all their numbers behind one another."""
    query = f"SELECT {key} AS id, a.{quoted(column)} AS given FROM {relation} WHERE a.{quoted(column)} IS NOT NULL"
    for batch in database.stream(query, what, ROWS_AT_ONCE):
        values = batch.column("given")
        yield batch.column("id").to_numpy(), (values.flatten() if column.startswith("vector") else values).to_numpy()


def _lists(
    database: Database,
    numbers: Numbers,
    column: str,
    tables: tuple[str, str],
    relation: str,
    here: TableArrays,
    what: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (rows + 1,) and the ids of all lists, which are in the order they were read in."""
    of, table = tables
    every = (
        f"SELECT {numbers.key_of(of)} AS row, generate_subscripts(a.{quoted(column)}, 1) AS place, "
        f"unnest(a.{quoted(column)}) AS value FROM {relation}"
    )
    joined, number = numbers.join_of(table, "e.value")
    query = f"SELECT e.row AS row, ({number})::INTEGER AS id FROM ({every}) e {joined} ORDER BY e.row, e.place"
    lengths, values = np.zeros(here.rows, np.int64), []
    for batch in database.stream(query, what, ROWS_AT_ONCE):
        lengths += np.bincount(here.places(batch.column("row").to_numpy()), minlength=here.rows)
        values.append(batch.column("id").to_numpy())
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return offsets, np.concatenate(values) if values else np.zeros(0, np.int32)
