"""The lists of ids of a batch, as its reading leaves them.

Legend: B requests, C candidates.
"""

import numpy as np

from dist_rec.data.columns import CANDIDATE, CONTEXT, FlatLists
from dist_rec.data.nested import Nested
from dist_rec.data.reading import Reading


def read_lists(reading: Reading) -> dict[str, FlatLists]:
    """By owner: B lists of each list of the request, C of each of the candidates. Those of HIDDEN ones are empty."""
    found = {f"{CONTEXT}.{name}": _of_requests(reading, name) for name in reading.schema.request.lists}
    return found | {f"{CANDIDATE}.{name}": _of_candidates(reading, name) for name in reading.schema.candidate.lists}


def plain_list_bytes(lists: dict[str, FlatLists]) -> int:
    """As int64 KeyedJaggedTensors: 8 bytes per id and 4 of length per list."""
    return sum(8 * len(of.values) + 4 * len(of.lengths) for of in lists.values())


def _of_requests(reading: Reading, name: str) -> FlatLists:
    column = reading.left.some.lists(name)
    return FlatLists(column.values, column.lengths)


def _of_candidates(reading: Reading, name: str) -> FlatLists:
    some, kept = reading.left.some, reading.left.kept.get(CANDIDATE)
    column = Nested.of(some.table, f"{CANDIDATE}.{name}")
    candidates = column.of_rows(some.rows)
    if kept is None:
        return column.of_candidates(candidates)
    lists = column.of_candidates(kept.of(candidates))
    if kept.hidden is None:
        return lists
    shown = np.repeat(~kept.hidden, lists.lengths)
    return FlatLists(lists.values[shown], np.where(kept.hidden, 0, lists.lengths))
