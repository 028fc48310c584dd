"""The batch as models see it: unique ids, inverse indices, and what is truly per event. How it crosses: host_batch.py.

Shapes: B requests, N events of one sequence, C candidates, U unique tokens of one feature set, T tasks.
Nothing here is 8 bytes wide per event.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor
from torchrec.streamable import Multistreamable

from dist_rec.kernels.unique_ids import BitPackedIndex


@dataclass(frozen=True)
class JaggedEvents:
    """Events of B requests, request after request: one sequence of every request, or the candidates of every request.

    - `lengths` (B,) int32, sums to N
    - `inverse` (N,) the row of each event among the unique tokens of its feature set, int32 or (on a GPU) bit-packed
    - `side` name -> (N,) uint8 or int16
    - `age` (N,) int32, seconds from the event to its request, or None
    """

    lengths: Tensor
    inverse: Tensor | BitPackedIndex
    side: dict[str, Tensor]
    age: Tensor | None = None


@dataclass(frozen=True)
class SequenceBatch(Multistreamable):
    """One step's input on one rank, on its device.

    - `unique`: KeyedJaggedTensor of stride 1 with one key per field of each feature set ("history.item"), U ids each
    - `context` (B,) row of each request in the feature set "context" as an `inverse` is, or None without context fields
    - `sequences` by name, `candidates` with `lengths` = candidates per request
    - `labels` (C, T) float32, 0 or 1, NaN where not defined: a task that is given another one, where that one's label
      is 0
    - `oracle` (C, T) float32 or None, also where the label is not defined
    - `visible_events` (C,) int32 or None: how many of the oldest events the candidate sees
    - `grouping_key` (B,) int64, of grouped metrics
    - `candidates_per_rank` () float32: candidates of an average rank in this step. The loss is divided by it, so that
      the mean over ranks of the gradients is the gradient of the mean over all candidates, however unevenly they are
      spread
    - `max_candidates`: most candidates of one request, known on the host
    """

    unique: KeyedJaggedTensor
    context: Tensor | BitPackedIndex | None
    sequences: dict[str, JaggedEvents]
    candidates: JaggedEvents
    labels: Tensor
    oracle: Tensor | None
    visible_events: Tensor | None
    grouping_key: Tensor
    candidates_per_rank: Tensor
    max_candidates: int

    @property
    def num_candidates(self) -> int:
        return self.labels.shape[0]

    def record_stream(self, stream: torch.Stream) -> None:
        for leaf in _leaves(self):
            leaf.record_stream(stream)


def _leaves(value: Any) -> Iterator[Any]:
    """Every tensor, KeyedJaggedTensor and BitPackedIndex in nested dataclasses and dicts."""
    if isinstance(value, Tensor | KeyedJaggedTensor | BitPackedIndex):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _leaves(item)
    elif is_dataclass(value):
        for field in fields(value):
            yield from _leaves(getattr(value, field.name))
