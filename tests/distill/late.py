"""Datasets of a label that arrives late, changed in what feedback says of it."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.data.synthetic.delayed import DelayedConfig, synthesize_delayed

REQUESTS = 1500
LABEL = ("candidate.convert", "candidate.convert.delay", "candidate.convert.oracle")


def write_late(out: Path, change: Callable[[pa.Table], pa.Table] | None = None, *, requests: int = REQUESTS) -> Path:
    """The same every time but for `change`, of the file of train."""
    options = {"requests": requests, "max_length": 10, "items": 40, "categories": 4}
    synthesize_delayed(out, DelayedConfig.model_validate(options))
    for path in sorted((out / "train").glob("*.parquet")) if change is not None else []:
        assert change is not None
        pq.write_table(change(pq.read_table(path)), path, row_group_size=256)
    return out


def of_others(table: pa.Table) -> pa.Table:
    """Every request has the labels of another one, so feedback tells nothing of them."""
    other = pa.array(np.random.default_rng(1).permutation(len(table)))
    for name in LABEL:
        table = _with(table, name, table.column(name).take(other))
    return table


def telling(table: pa.Table) -> pa.Table:
    """`dwell` is 15 where the label is 1, and only there."""
    events = table.column("candidate.feedback_events").combine_chunks().flatten().to_numpy()
    label = table.column("candidate.convert").combine_chunks().flatten().to_numpy()
    dwell = table.column("feedback.dwell").combine_chunks()
    told = np.where(np.repeat(label, events) == 1, 15, dwell.flatten().to_numpy().clip(max=14))
    return _with(table, "feedback.dwell", pa.ListArray.from_arrays(dwell.offsets, pa.array(told)))


def in_a_fifth(table: pa.Table) -> pa.Table:
    """Every fifth candidate keeps its feedback; the others have none."""
    counts = table.column("candidate.feedback_events").combine_chunks()
    events = counts.flatten().to_numpy()
    stays = np.arange(len(events)) % 5 == 0
    request = np.repeat(np.arange(len(table)), counts.value_lengths().to_numpy())
    left = np.where(stays, events, 0)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(request, left, minlength=len(table)))]).astype(np.int32)
    kept = np.flatnonzero(np.repeat(stays, events))
    for name in (name for name in table.column_names if name.startswith("feedback.")):
        values = table.column(name).combine_chunks().flatten().take(pa.array(kept))
        table = _with(table, name, pa.ListArray.from_arrays(pa.array(offsets), values))
    return _with(table, "candidate.feedback_events", pa.ListArray.from_arrays(counts.offsets, pa.array(left)))


def never(table: pa.Table) -> pa.Table:
    """No label is 1."""
    label = table.column("candidate.convert").combine_chunks()
    zero = pa.array(np.zeros(len(label.flatten()), np.int8))
    return _with(table, "candidate.convert", pa.ListArray.from_arrays(label.offsets, zero))


def _with(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    at = table.schema.get_field_index(name)
    return table.set_column(at, table.schema.field(at), values.cast(table.schema.field(at).type))
