"""Rows of a file -> one `SequenceBatch`: the dedup of a batch happens here, on the host, in the reader worker.

Shapes: B requests, N events of one sequence, C candidates, U unique tokens of one token set, T tasks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from dist_rec.data.batch import JaggedEvents, SequenceBatch
from dist_rec.data.columns import CANDIDATE, CONTEXT, arrow_schema, ragged_values, scalar_values
from dist_rec.data.dedup import UniqueTokens, every_token, unique_tokens
from dist_rec.data.schema import Schema, StaticField

MAX_AGE_SECONDS = 2**31 - 1


@dataclass(frozen=True)
class _Events:
    """One sequence, or the candidates, of B requests, still with plain ids."""

    lengths: NDArray[np.int64]  # (B,)
    static: list[NDArray[np.int64]]  # per field: (N,)
    dynamic: dict[str, NDArray]  # name -> (N,) uint8 or int16
    time: NDArray[np.int64] | None  # (N,) seconds

    @property
    def plain_bytes(self) -> int:
        """As int64 KeyedJaggedTensors: 8 bytes per value, 4 bytes of length per request, for every field."""
        keys = len(self.static) + len(self.dynamic) + (self.time is not None)
        return keys * (8 * int(self.lengths.sum()) + 4 * len(self.lengths))


def collate(table: pa.Table, schema: Schema, max_length: int | None = None, *, dedup: bool = True) -> SequenceBatch:
    """One batch from B valid rows (see `validate`); with `max_length`, only the newest events of each sequence.

    - `unique`: stride 1, keys in the order of `schema.token_sets`; lengths (keys,) int32, values int64, in order of first
      occurrence; without `dedup` every event is a token of its own
    - `inverse` int32, `dynamic` uint8 up to 256 values and int16 above, `age` int32 seconds clipped to [0, 2^31 - 1]
    - `labels` of a task that is `given` another one are NaN where that one's label is 0, whatever the file says there
    - `share` is C; the training loop replaces it by what its ranks have on average
    - `plain_bytes`: the ids, dynamic values and times of this batch as int64 KeyedJaggedTensors (8 bytes per value, 4 bytes
      of length per field and request), and labels, truth, seen and group as they are here
    """
    sequences = {s.name: _read_events(table, s.name, s.static, s.dynamic, s.time, max_length) for s in schema.sequences}
    candidates = _read_events(table, CANDIDATE, schema.candidate.static, schema.candidate.dynamic, False, None)
    context = [scalar_values(table, field.name).astype(np.int64) for field in schema.context]
    unique, inverse = _dedup(schema, context, {**sequences, CANDIDATE: candidates}, unique_tokens if dedup else every_token)
    now = None if schema.request.time is None else scalar_values(table, schema.request.time).astype(np.int64)
    group = torch.from_numpy(scalar_values(table, schema.request.group).astype(np.int64))
    outcome = _read_outcome(table, schema)
    plain = sum(events.plain_bytes for events in (*sequences.values(), candidates)) + 12 * len(context) * table.num_rows
    return SequenceBatch(
        unique=unique,
        context=inverse.get(CONTEXT),
        sequences={name: _jagged(events, inverse[name], now) for name, events in sequences.items()},
        candidates=_jagged(candidates, inverse[CANDIDATE], None),
        group=group,
        share=torch.tensor(float(len(outcome.labels)), dtype=torch.float32),
        max_candidates=int(candidates.lengths.max(initial=0)),
        plain_bytes=plain + 8 * len(group) + outcome.nbytes,
        labels=outcome.labels,
        truth=outcome.truth,
        seen=outcome.seen,
    )


def empty_batch(schema: Schema) -> SequenceBatch:
    """A batch of no requests, for a rank that has run out of rows: every length 0, stride 1, same keys as any other."""
    return collate(arrow_schema(schema).empty_table(), schema)


@dataclass(frozen=True)
class _Outcome:
    labels: Tensor  # (C, T) float32, NaN where not defined
    truth: Tensor | None  # (C, T) float32
    seen: Tensor | None  # (C,) int32

    @property
    def nbytes(self) -> int:
        return sum(part.numel() * part.element_size() for part in (self.labels, self.truth, self.seen) if part is not None)


def _read_outcome(table: pa.Table, schema: Schema) -> _Outcome:
    def columns(names: list[str]) -> Tensor:
        return torch.from_numpy(np.stack([ragged_values(table, name).values.astype(np.float32) for name in names], axis=1))

    names = schema.candidate.labels
    labels = [f"{CANDIDATE}.{label}" for label in names]
    observed = columns(labels)
    for task, condition in schema.candidate.given.items():
        observed[observed[:, names.index(condition)] == 0, names.index(task)] = torch.nan
    truth = columns([f"{label}.truth" for label in labels]) if schema.candidate.truth else None
    seen = None
    if schema.candidate.seen:
        seen = torch.from_numpy(ragged_values(table, f"{CANDIDATE}.seen").values.astype(np.int32))
    return _Outcome(observed, truth, seen)


def _read_events(
    table: pa.Table, owner: str, static: list[StaticField], dynamic: dict[str, int], timed: bool, max_length: int | None
) -> _Events:
    offsets = ragged_values(table, f"{owner}.{static[0].name}").offsets
    lengths = np.diff(offsets)
    keep: slice | NDArray[np.bool_] = slice(None)
    if max_length is not None and len(lengths) and lengths.max() > max_length:
        keep = np.repeat(offsets[1:], lengths) - np.arange(offsets[-1]) <= max_length
        lengths = np.minimum(lengths, max_length)

    def column(name: str) -> NDArray:
        return ragged_values(table, f"{owner}.{name}").values[keep]

    return _Events(
        lengths=lengths,
        static=[column(field.name).astype(np.int64) for field in static],
        dynamic={name: column(name).astype(np.uint8 if size <= 2**8 else np.int16) for name, size in dynamic.items()},
        time=column("time").astype(np.int64) if timed else None,
    )


def _dedup(
    schema: Schema,
    context: list[NDArray[np.int64]],
    events: dict[str, _Events],
    tokens_of: Callable[[list[NDArray[np.int64]]], UniqueTokens],
) -> tuple[KeyedJaggedTensor, dict[str, Tensor]]:
    """Unique tokens of every token set, and per owner ("context", each sequence, "candidate") the inverse (N,) int32."""
    fields = {s.name: s.static for s in schema.sequences} | {CANDIDATE: schema.candidate.static}
    inverse: dict[str, Tensor] = {}
    keys: list[str] = []
    values: list[NDArray[np.int64]] = []
    for token_set in schema.token_sets.values():
        owners = [owner for owner in events if schema.token_set_of(fields[owner]) == token_set.name]
        parts = [events[owner].static for owner in owners] if token_set.name != CONTEXT else [context]
        owners = owners or [CONTEXT]
        tokens = tokens_of([np.concatenate(columns) for columns in zip(*parts, strict=True)])
        ends = np.cumsum([len(part[0]) for part in parts])
        inverse |= {o: torch.from_numpy(i) for o, i in zip(owners, np.split(tokens.inverse, ends[:-1]), strict=True)}
        keys += token_set.keys
        values += tokens.columns
    lengths = torch.tensor([len(column) for column in values], dtype=torch.int32)
    return KeyedJaggedTensor(keys=keys, values=torch.from_numpy(np.concatenate(values)), lengths=lengths), inverse


def _jagged(events: _Events, inverse: Tensor, now: NDArray[np.int64] | None) -> JaggedEvents:
    age = None
    if events.time is not None and now is not None:
        seconds = np.repeat(now, events.lengths) - events.time
        age = torch.from_numpy(np.clip(seconds, 0, MAX_AGE_SECONDS).astype(np.int32))
    return JaggedEvents(
        lengths=torch.from_numpy(events.lengths.astype(np.int32)),
        inverse=inverse,
        dynamic={name: torch.from_numpy(values) for name, values in events.dynamic.items()},
        age=age,
    )
