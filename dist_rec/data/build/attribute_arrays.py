"""Numbers, lists and vectors of ids, as arrays with a row for every number of an id."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.database import Database, quoted
from dist_rec.data.build.numbering import Numbers
from dist_rec.data.build.roles import attributes

ROWS_AT_ONCE = 50_000


def attribute_arrays(database: Database, config: BuildConfig, numbers: Numbers) -> dict[str, dict[str, Any]]:
    """Table -> name -> array, as `write_attributes` takes them. Ids that share a number, and those without a row, have
    missing numbers, empty lists and zeros."""
    found: dict[str, dict[str, Any]] = {}
    for source, of in config.attributes.items():
        what, rows = f"the attributes of {source}", numbers.sizes[of.of]
        here = found.setdefault(of.of, {})
        relation = f"{quoted(attributes(source))} a {numbers.keyed(of.of)}"
        for name in of.numbers:
            here[name] = np.full(rows, np.nan, np.float32)
            for ids, values in _given(database, numbers.key_of(of.of), f"number {name}", relation, what):
                here[name][ids] = values
        for name, vector in of.vectors.items():
            here[name] = np.zeros((rows, vector.dim), np.float16)
            for ids, values in _given(database, numbers.key_of(of.of), f"vector {name}", relation, what):
                here[name][ids] = values.reshape(-1, vector.dim)
        for name, field in of.lists.items():
            here[name] = _lists(database, numbers, f"list {name}", (of.of, field.table), relation, rows, what)
    return {table: arrays for table, arrays in found.items() if arrays}


def _given(database: Database, key: str, column: str, relation: str, what: str) -> Iterator[tuple[NDArray, NDArray]]:
    """Ids that are not missing in a column, and all their numbers behind one another."""
    query = f"SELECT {key} AS id, a.{quoted(column)} AS given FROM {relation} WHERE a.{quoted(column)} IS NOT NULL"
    for batch in database.stream(query, what, ROWS_AT_ONCE):
        values = batch.column("given")
        yield batch.column("id").to_numpy(), (values.flatten() if column.startswith("vector") else values).to_numpy()


def _lists(
    database: Database, numbers: Numbers, column: str, tables: tuple[str, str], relation: str, rows: int, what: str
) -> tuple[np.ndarray, np.ndarray]:
    """Offsets (rows + 1,) and the ids of all lists, which are in the order they were read in."""
    of, table = tables
    every = (
        f"SELECT {numbers.key_of(of)} AS row, generate_subscripts(a.{quoted(column)}, 1) AS place, "
        f"unnest(a.{quoted(column)}) AS value FROM {relation}"
    )
    joined, number = numbers.join_of(table, "e.value")
    query = f"SELECT e.row AS row, ({number})::INTEGER AS id FROM ({every}) e {joined} ORDER BY e.row, e.place"
    lengths, values = np.zeros(rows, np.int64), []
    for batch in database.stream(query, what, ROWS_AT_ONCE):
        lengths += np.bincount(batch.column("row").to_numpy(), minlength=rows)
        values.append(batch.column("id").to_numpy())
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return offsets, np.concatenate(values) if values else np.zeros(0, np.int32)
