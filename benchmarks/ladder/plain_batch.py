"""The batch of the plain job: one `KeyedJaggedTensor` of all ids, and tensors beside it.

Legend: B requests, N events of one sequence, L events of the longest request, C candidates.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

from dist_rec.data.columns import CANDIDATE, CONTEXT, Ragged, ragged_values, scalar_values
from dist_rec.data.schema import Schema


@dataclass(frozen=True)
class PlainBatch(Pipelineable):
    """- `features`: one key per field of context, sequences and candidates, a sample per request; plain ids, or the
      `UniqueFeatures` of a `DedupLoader`
    - `lengths` sequence -> (B,), `longest` sequence -> L
    - `side` sequence -> name -> values, `age` sequence -> seconds before the request: (N,), or with `padded` (B, L)
      with zeros before the events
    - `labels` (C, T) float32, NaN where not defined; every request has `candidates` of them
    """

    features: Any
    lengths: dict[str, Tensor]
    longest: dict[str, int]
    side: dict[str, dict[str, Tensor]]
    age: dict[str, Tensor]
    labels: Tensor
    candidates: int

    def to(self, device: torch.device, non_blocking: bool = False) -> "PlainBatch":
        moved = _map(self, lambda tensor: tensor.to(device, non_blocking=non_blocking))
        return replace(moved, features=self.features.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> "PlainBatch":
        pinned = _map(self, lambda tensor: tensor.pin_memory())
        ids = self.features  # a DedupLoader pins what it makes
        return replace(pinned, features=ids.pin_memory() if isinstance(ids, KeyedJaggedTensor) else ids)

    def record_stream(self, stream: torch.Stream) -> None:
        self.features.record_stream(stream)
        _map(self, lambda tensor: tensor.record_stream(stream))

    @property
    def nbytes(self) -> int:
        """Bytes that `to` moves."""
        tensors: list[Tensor] = []
        _map(self, tensors.append)
        ids = self.features
        own = ids.values().nbytes + ids.lengths().nbytes if isinstance(ids, KeyedJaggedTensor) else ids.nbytes
        return own + sum(tensor.nbytes for tensor in tensors)


def _map(batch: PlainBatch, change: Callable[[Tensor], Any]) -> PlainBatch:
    """`change` of every tensor beside the features."""

    def deep(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: deep(item) for key, item in value.items()}
        return change(value) if isinstance(value, Tensor) else value

    return replace(batch, **{of.name: deep(getattr(batch, of.name)) for of in fields(batch) if of.name != "features"})


def collate_plain(
    table: pa.Table, schema: Schema, *, per_candidate: bool, padded: bool, dtype: torch.dtype
) -> PlainBatch:
    """Rows of requests as the plain job reads them. Integers are `dtype`.

    `per_candidate` repeats a request with its history for each of its candidates. Raises ValueError unless all requests
    have the same number of candidates."""
    ragged = {
        name: ragged_values(table, name)
        for name in table.column_names
        if pa.types.is_list(table.schema.field(name).type)
    }
    labels = _labels(ragged, schema)
    counts = ragged[f"{CANDIDATE}.{schema.candidate.ids[0].name}"].lengths
    if len(np.unique(counts)) != 1:
        raise ValueError(f"expected the same number of candidates in all requests, got {np.unique(counts)}")
    candidates = int(counts[0])
    request = np.repeat(np.arange(len(counts)), candidates if per_candidate else 1)
    if per_candidate:
        candidates = 1

    kind = {torch.int64: np.int64, torch.int32: np.int32}[dtype]

    def of_events(name: str) -> Ragged:
        return _taken(ragged[name], request) if per_candidate else ragged[name]

    def integers(values: Any) -> Tensor:
        return torch.from_numpy(values.astype(kind))  # a copy, which may be written to

    parts: dict[str, tuple[Tensor, Tensor]] = {}
    ones = torch.ones(len(request), dtype=dtype)
    for field in schema.context:
        parts[f"{CONTEXT}.{field.name}"] = integers(scalar_values(table, field.name)[request]), ones
    lengths, longest = {}, {}
    side: dict[str, dict[str, Tensor]] = {}
    age: dict[str, Tensor] = {}
    for sequence in schema.sequences:
        name = sequence.name
        events = {field.name: of_events(f"{name}.{field.name}") for field in sequence.ids}
        held = next(iter(events.values())).lengths
        lengths[name], longest[name] = integers(held), _longest(held)
        parts |= {f"{name}.{field}": (integers(of.values), lengths[name]) for field, of in events.items()}
        place = _places(held) if padded else None
        beside = {other: integers(of_events(f"{name}.{other}").values) for other in sequence.side}
        side[name] = {other: _padded(values, place, held) for other, values in beside.items()}
        if sequence.time:
            assert schema.request.time is not None, "ages are counted from the time of the request"
            now = scalar_values(table, schema.request.time).astype(np.int64)[request]
            ages = (now.repeat(held) - of_events(f"{name}.time").values).clip(0, 2**31 - 1)
            age[name] = _padded(integers(ages), place, held)
    for field in schema.candidate.ids:
        of = ragged[f"{CANDIDATE}.{field.name}"]
        parts[f"{CANDIDATE}.{field.name}"] = integers(of.values), torch.full((len(request),), candidates, dtype=dtype)
    features = KeyedJaggedTensor.from_lengths_sync(
        list(parts), torch.cat([ids for ids, _ in parts.values()]), torch.cat([of for _, of in parts.values()])
    ).sync()  # a loader's work, so that no step waits for it
    return PlainBatch(features, lengths, longest, side, age, labels, candidates)


def _labels(ragged: dict[str, Ragged], schema: Schema) -> Tensor:
    names = schema.candidate.labels
    labels = torch.from_numpy(np.stack([ragged[f"{CANDIDATE}.{name}"].values for name in names], 1).astype(np.float32))
    for task, condition in schema.candidate.given.items():
        labels[labels[:, names.index(condition)] == 0, names.index(task)] = torch.nan
    return labels


def _taken(of: Ragged, rows: Any) -> Ragged:
    parts = [of.values[of.offsets[row] : of.offsets[row + 1]] for row in rows]
    return Ragged(np.concatenate(parts), np.concatenate([[0], np.cumsum([len(part) for part in parts])]))


def _longest(lengths: Any) -> int:
    return int(lengths.max(initial=1))  # a column at least: attention needs a key


def _places(lengths: Any) -> Tensor:
    """(N,) place of every event in (B * L,), where events end at the end of their row."""
    longest = _longest(lengths)
    starts = np.cumsum(lengths) - lengths
    first = np.arange(len(lengths)) * longest + longest - lengths
    return torch.from_numpy(np.arange(lengths.sum()) + (first - starts).repeat(lengths))


def _padded(values: Tensor, place: Tensor | None, lengths: Any) -> Tensor:
    if place is None:
        return values
    longest = _longest(lengths)
    return values.new_zeros(len(lengths) * longest).index_copy(0, place, values).view(len(lengths), longest)
