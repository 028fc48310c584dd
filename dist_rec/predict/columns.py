"""The columns of a prediction: one row per request, in the order of the requests, with a list per candidate.

Legend: B requests, C candidates, T tasks, W width of the features before the head.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from torch import Tensor

from dist_rec.data.columns import CANDIDATE, Ints, arrow_schema, list_column, ragged_values
from dist_rec.data.schema import Schema

ROW = "request.row"
PROBABILITY, LOGIT, EMBEDDING = "probability", "logit", "embedding.candidate"


@dataclass(frozen=True)
class More:
    """What a prediction has beside probabilities: the `logits` that they are of, and the `embeddings`: the features of
    each candidate that the head makes logits of."""

    logits: bool = False
    embeddings: bool = False


@dataclass(frozen=True)
class Scores:
    """Of C candidates, request after request: `logits` (C, T) float32 and, if they were asked for, `features` (C, W)
    float32, on the host."""

    logits: Tensor
    features: Tensor | None


def key_columns(schema: Schema) -> list[str]:
    """What names a request and its candidates: grouping key, request time if there is one, ids of the candidates."""
    request, candidate = schema.request, schema.candidate
    keys = [request.grouping_key, *([] if request.time is None else [request.time])]
    return [*dict.fromkeys(keys), *(f"{CANDIDATE}.{field.name}" for field in candidate.ids)]


def prediction_schema(schema: Schema, more: More, width: int) -> pa.Schema:
    """Names and Arrow types: `request.row` int64, the key columns as in the dataset, then lists of float32 with one
    entry per candidate; an embedding is a list of `width` numbers."""
    types = arrow_schema(schema)
    found = [pa.field(ROW, pa.int64()), *(types.field(name) for name in key_columns(schema))]
    numbers, labels = pa.list_(pa.float32()), schema.candidate.labels
    found += [pa.field(f"{PROBABILITY}.{label}", numbers) for label in labels]
    found += [pa.field(f"{LOGIT}.{label}", numbers) for label in labels if more.logits]
    found += [pa.field(EMBEDDING, pa.list_(pa.list_(pa.float32(), width)))] if more.embeddings else []
    return pa.schema(found)


def prediction_table(keys: pa.Table, first: int, scores: Scores, schema: Schema, more: More) -> pa.Table:
    """The rows of B requests, whose numbers count from `first`; `keys` has their `key_columns`.

    A probability is the sigmoid of its logit in float64, rounded to float32."""
    lengths = ragged_values(keys, f"{CANDIDATE}.{schema.candidate.ids[0].name}").lengths
    tasks, probabilities = len(schema.candidate.labels), scores.logits.double().sigmoid().float().numpy()
    columns = [pa.array(np.arange(first, first + keys.num_rows)), *(keys.column(name) for name in key_columns(schema))]
    columns += [list_column(lengths, np.ascontiguousarray(probabilities[:, task])) for task in range(tasks)]
    if more.logits:
        logits = scores.logits.numpy()
        columns += [list_column(lengths, np.ascontiguousarray(logits[:, task])) for task in range(tasks)]
    width = 0
    if more.embeddings:
        assert scores.features is not None, "they were asked for"
        width = scores.features.shape[1]
        columns.append(_vectors(lengths, scores.features))
    return pa.table(columns, schema=prediction_schema(schema, more, width))


def _vectors(lengths: Ints, features: Tensor) -> pa.Array:
    """A list of vectors per request."""
    flat = pa.array(features.contiguous().numpy().reshape(-1))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    return pa.ListArray.from_arrays(offsets, pa.FixedSizeListArray.from_arrays(flat, features.shape[1]))
