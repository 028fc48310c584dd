"""Bytes that cross from host to device, counted on the buffer that is copied, over duplicate share and number of
fields."""

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray

from benchmarks.dedup.streams import LENGTH, REQUESTS, event_ids, fields_of, share
from dist_rec.data.collate import collate
from dist_rec.data.columns import arrow_schema
from dist_rec.data.schema import Schema
from dist_rec.data.transfer_buffer import TransferBuffer

SIZES = [10_000_000, 100_000, 1_000_000, 1_000, 50_000, 200, 5_000, 20]
NOW = 1_700_000_000


def stream_schema(fields: int) -> Schema:
    """`fields` static and two dynamic fields per event: an action of 8 values and a time."""
    names = [f"f{i}" for i in range(fields)]
    return Schema.model_validate(
        {
            "name": "stream",
            "tables": dict(zip(names, SIZES)),
            "request": {"grouping_key": "user", "time": "now"},
            "sequences": [{"name": "history", "ids": names, "side": {"action": 8}, "time": True}],
            "candidate": {"ids": names, "labels": ["click"]},
        }
    )


def stream_table(columns: list[NDArray[np.int64]], schema: Schema) -> pa.Table:
    """The stream cut into requests of `LENGTH` events, each with its last event as the candidate."""
    rng = np.random.default_rng(1)
    requests, count = REQUESTS, REQUESTS * LENGTH
    ends = np.arange(0, count + 1, LENGTH)

    def lists(values: NDArray, offsets: NDArray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(values))

    named = {"user": pa.array(np.arange(requests)), "now": pa.array(np.full(requests, NOW))}
    for field, column in zip(schema.sequences[0].ids, columns):
        named[f"history.{field.name}"] = lists(column, ends)
        named[f"candidate.{field.name}"] = lists(column[ends[1:] - 1], np.arange(requests + 1))
    named["history.action"] = lists(rng.integers(0, 8, count), ends)
    named["history.time"] = lists(NOW - rng.integers(1, 10**7, count), ends)
    named["candidate.click"] = lists(rng.integers(0, 2, requests), np.arange(requests + 1))
    wanted = arrow_schema(schema)
    return pa.table({field.name: named[field.name] for field in wanted}).cast(wanted)


def _entropy_bytes(index: NDArray) -> float:
    """The least that tells which token each event is, if events are drawn independently: N times the entropy of the
    tokens."""
    counts = np.unique(index, return_counts=True)[1]
    return float(-(counts * np.log2(counts / len(index))).sum() / 8)


def bytes_crossed() -> list[str]:
    """One line per share and number of fields: MB of each form and the ratios."""
    lines = [
        "| fields | duplicates | crossed MB | int64 MB | int32 MB | crossed / int64 | crossed / int32 | entropy bound "
        "MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for fields in (1, 2, 4, 8):
        for duplicates in (0.0, 0.25, 0.5, 0.75, 0.9, 0.95):
            lines.append(_line(fields, duplicates))
            print(lines[-1], flush=True)
    return lines


def _line(fields: int, duplicates: float) -> str:
    schema = stream_schema(fields)
    ids = event_ids(duplicates)
    batch = collate(stream_table(fields_of(ids, fields), schema), schema)
    sent = batch.tensors
    assert isinstance(sent, TransferBuffer)
    crossed = torch.empty_like(sent.buffer).copy_(sent.buffer).nbytes
    assert crossed == batch.nbytes
    # The same KeyedJaggedTensors with 4-byte values; lengths and labels have 4 bytes already.
    values = (fields + 2) * batch.num_events + fields * batch.num_candidates
    narrow = batch.plain_bytes - 4 * values
    inverse = batch.inverse("history")
    assert isinstance(inverse, torch.Tensor)
    packed_inverse = sent["inverse.history"].nbytes
    bound = crossed - packed_inverse + _entropy_bytes(inverse.numpy())
    cells = [f"{size / 1e6:.2f}" for size in (crossed, batch.plain_bytes, narrow)]
    ratios = [f"{crossed / whole:.3f}" for whole in (batch.plain_bytes, narrow)]
    return f"| {fields} | {share(ids):.0%} | {' | '.join(cells)} | {' | '.join(ratios)} | {bound / 1e6:.2f} |"
