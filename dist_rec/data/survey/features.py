"""What is known of every candidate before its label, one whole number each.

Legend: C candidates.
"""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.attribute_store import AttributeStore
from dist_rec.data.columns import CANDIDATE, CONTEXT, FlatLists, Ints
from dist_rec.data.nested import Nested
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows


def candidate_features(table: pa.Table, schema: Schema, attributes: AttributeStore | None = None) -> dict[str, Ints]:
    """(C,) whole numbers by name: ids, side values and numbers of candidates and requests, numbers that their ids have,
    the first id and the length of their lists, and what a candidate has to do with the events. Vectors are left out."""
    some = SomeRows(table.combine_chunks(), np.arange(table.num_rows))
    of = schema.candidate
    lengths = some.lists(f"{CANDIDATE}.{of.ids[0].name}").lengths
    row = np.repeat(np.arange(len(some)), lengths)
    found = {f"{CONTEXT}.{field.name}": some.scalars(field.name).astype(np.int64)[row] for field in schema.context}
    for name in [*(field.name for field in of.ids), *of.side]:
        found[f"{CANDIDATE}.{name}"] = some.lists(f"{CANDIDATE}.{name}").values.astype(np.int64)
    if attributes is not None:
        found |= _of_ids(found, attributes)
    for name in of.numbers:
        found[f"{CANDIDATE}.{name}"] = _rounded(some.lists(f"{CANDIDATE}.{name}").values)
    for name in schema.request.numbers:
        found[f"{CONTEXT}.{name}"] = _rounded(some.scalars(name))[row]
    for name in of.lists:
        nested = Nested.of(some.table, f"{CANDIDATE}.{name}")
        found |= _of_lists(f"{CANDIDATE}.{name}", nested.of_candidates(nested.of_rows(some.rows)))
    for name in schema.request.lists:
        column = some.lists(name)
        known = _of_lists(f"{CONTEXT}.{name}", FlatLists(column.values, column.lengths))
        found |= {key: values[row] for key, values in known.items()}
    found["place among the candidates"] = np.arange(len(row)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    tables = {field.table: f"{CANDIDATE}.{field.name}" for field in reversed(of.ids)}
    for sequence in schema.sequences:
        for field in sequence.ids:
            if field.table in tables:
                events = some.lists(f"{sequence.name}.{field.name}")
                found |= _beside(
                    found[tables[field.table]],
                    row,
                    events.values.astype(np.int64),
                    events.lengths,
                    f"{sequence.name}.{field.name}",
                )
        found[f"events in {sequence.name}"] = some.lists(f"{sequence.name}.{sequence.ids[0].name}").lengths[row]
    return found


def _of_ids(ids: dict[str, Ints], attributes: AttributeStore) -> dict[str, Ints]:
    """(C,) attributes of ids (C,) by "<owner>.<field>", as "<owner>.<field>.<attribute>"."""
    schema, found = attributes.schema, {}
    fields = [(f"{CONTEXT}.{field.name}", field.table) for field in schema.context]
    fields += [(f"{CANDIDATE}.{field.name}", field.table) for field in schema.candidate.ids]
    for key, table in fields:
        for name, of in schema.attributes.get(table, {}).items():
            if of.number is not None:
                found[f"{key}.{name}"] = _rounded(attributes.numbers(table, name, ids[key]))
            elif of.list is not None:
                found |= _of_lists(f"{key}.{name}", attributes.lists(table, name, ids[key]))
    return found


def _of_lists(name: str, lists: FlatLists) -> dict[str, Ints]:
    """The first id, -1 of an empty list, and the length."""
    starts = np.cumsum(lists.lengths) - lists.lengths
    ids = np.append(lists.values.astype(np.int64), -1)
    first = np.where(lists.lengths > 0, ids[starts], -1)
    return {f"the first of {name}": first, f"how many {name}": lists.lengths.astype(np.int64)}


def _rounded(values: NDArray) -> Ints:
    """Numbers to three digits, as whole numbers in their order; NaN, a missing one, last of all."""
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (2 - np.floor(np.log10(np.abs(values.astype(np.float64)))))
        near = np.where(values == 0, 0.0, np.round(values * scale) / scale)
    return near.astype(np.float32).view(np.int32).astype(np.int64)


def _beside(own: Ints, row: Ints, events: Ints, lengths: Ints, name: str) -> dict[str, Ints]:
    """How often a candidate's id is among the events of its request, and whether it is the newest of them."""
    of_event = np.repeat(np.arange(len(lengths)), lengths)
    known, place = np.unique(np.concatenate([own, events]), return_inverse=True)  # any 64 bits
    own, events, size = place[: len(own)], place[len(own) :], len(known)
    keys, times = np.unique(of_event * size + events, return_counts=True)
    wanted = row * size + own
    place = np.minimum(np.searchsorted(keys, wanted), max(len(keys) - 1, 0))
    count = np.where(keys[place] == wanted, times[place], 0) if len(keys) else np.zeros(len(own), np.int64)
    newest = np.full(len(lengths), -1, np.int64)
    ends = np.cumsum(lengths)
    newest[lengths > 0] = events[ends[lengths > 0] - 1]
    return {f"times it is in {name}": count, f"is the newest of {name}": (newest[row] == own).astype(np.int64)}
