"""Raw ids of a batch: what they become before they are sent.

Legend: U distinct tokens of one feature set.
"""

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.id_hash import hashed_rows, raw_ids
from dist_rec.common.open_ids import HIDDEN_ID
from dist_rec.data.schema import Schema

Remap = Callable[[NDArray[np.int64]], NDArray[np.int64]]


def hidden_id(schema: Schema, table: str) -> int:
    """What stands in a column in the place of an id that a filter hides."""
    return HIDDEN_ID if table in schema.open_ids else schema.tables[table]


def ids_as_read(schema: Schema, table: str, values: NDArray) -> NDArray:
    """A column of ids, with `HIDDEN_ID` kept free where any id may come."""
    return raw_ids(values) if table in schema.open_ids else values


def remaps(schema: Schema) -> dict[str, Remap]:
    """Key of a hashed table -> what makes rows (U,) of its raw ids (U,), after dedup. Two ids on one row are two
    lookups of it, and its gradient is their sum."""
    kinds = schema.open_ids
    of_keys = schema.layout.tables.items()
    return {
        key: partial(hashed_rows, rows=schema.tables[table]) for key, table in of_keys if kinds.get(table) == "hashed"
    }


def sent_sizes(schema: Schema, sizes: Mapping[str, int]) -> dict[str, int | None]:
    """The same limits of ids by key; None where raw ids are sent."""
    kinds, tables = schema.open_ids, schema.layout.tables
    return {key: None if kinds.get(tables[key]) == "dynamic" else size for key, size in sizes.items()}
