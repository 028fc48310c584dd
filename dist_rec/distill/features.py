"""Feedback of candidates as numbers of 0 and 1, for a model that reads nothing else.

Legend: C candidates, E feedback events of a batch, F numbers of a candidate.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.later import FEEDBACK
from dist_rec.data.schema import Schema

MOST_COLUMNS = 512  # about: what a regression on tens of thousands of candidates fits in seconds
BUCKETS = 64  # of hashed values and of times: 2 log2(2^31) = 62
ONE_HOT_MOST = 128  # wider side values are hashed, and told by magnitude besides


def feedback_features(batch: HostBatch, schema: Schema) -> NDArray[np.uint8]:
    """(C, F) of a batch with feedback: the number of events, then for every place whether there is one, and of it one
    number for each side value, each time bucket, each bucket of hashed ids, and whether an id is the candidate's own.

    All are 0 without feedback. If there would be more than `MOST_COLUMNS`, events at later places share the numbers of
    the last place."""
    feedback = schema.candidate.feedback
    assert feedback is not None and batch.feedback is not None, "only read where there is a teacher"
    counts, twin = batch.tensors[f"lengths.{FEEDBACK}"].numpy(), batch.tensors["twin"].numpy()
    candidate = np.repeat(twin, counts)
    place = np.arange(len(candidate)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = list(_values(batch, schema, candidate))
    width = 1 + sum(size for _, size in values)
    places = min(feedback.most, max(1, MOST_COLUMNS // width))
    column = 1 + np.minimum(place, places - 1) * width
    found = np.zeros((batch.num_candidates, 1 + places * width), np.uint8)
    found[twin, 0] = counts.clip(max=255)
    found[candidate, column] = 1
    column += 1
    for bucket, size in values:
        found[candidate, column + bucket] = 1
        column += size
    return found


def _values(batch: HostBatch, schema: Schema, candidate: Ints) -> Iterator[tuple[Ints, int]]:
    """Buckets (E,) of everything that events have, and how many of each there are. `candidate` (E,) of each event."""
    feedback = schema.candidate.feedback
    assert feedback is not None, "checked by the caller"
    for name, size in schema.side_values(feedback).items():
        value = batch.tensors[f"side.{FEEDBACK}.{name}"].numpy().astype(np.int64)
        yield _hashed(value, size, ONE_HOT_MOST)
        if size > ONE_HOT_MOST:
            yield _magnitude(value), BUCKETS
    if feedback.time:
        yield _magnitude(batch.tensors[f"age.{FEEDBACK}"].numpy()), BUCKETS
    served = _ids(batch, schema, CANDIDATE)
    for field, ids in zip(feedback.ids, _ids(batch, schema, FEEDBACK) if feedback.ids else []):
        # Raw ids of a dynamic table are no row numbers, however few it holds.
        size = 2**63 if schema.open_ids.get(field.table) == "dynamic" else schema.rows_of(field.table)
        yield _hashed(ids, size, BUCKETS)
        for of_candidate, own in zip(schema.candidate.ids, served):
            if of_candidate.table == field.table:
                yield (ids == own[candidate]).astype(np.int64), 2


def _ids(batch: HostBatch, schema: Schema, owner: str) -> list[Ints]:
    """Of each field: (C,) of the candidates, (E,) of feedback."""
    inverse = batch.inverse(owner)
    assert isinstance(inverse, Tensor), "only a GPU keeps it packed"
    return [batch.ids_of(key)[inverse.long()].numpy() for key in schema.layout.owners[owner].keys]


def _hashed(values: Ints, size: int, most: int) -> tuple[Ints, int]:
    """Themselves, or if there are more than `most` one of `BUCKETS`."""
    if size <= most:
        return values, size
    mixed = values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)  # Fibonacci hashing: the upper bits are mixed
    return (mixed >> np.uint64(58)).astype(np.int64), BUCKETS


def _magnitude(values: NDArray) -> Ints:
    """Two buckets per doubling, as models bucket times."""
    return (2 * np.log2(values.astype(np.float64) + 1)).astype(np.int64).clip(max=BUCKETS - 1)
