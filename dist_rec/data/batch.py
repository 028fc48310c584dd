"""The batch of a model: unique ids, inverse indices and values per event. Its transfer: host_batch.py.

Shapes: B requests, N events of one sequence, C candidates, U unique tokens of one feature set, T tasks.
Nothing here is 8 bytes wide per event.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.data.torchrec_types import KeyedJaggedTensor, Multistreamable
from dist_rec.kernels.unique_ids import BitPackedIndex


@dataclass(frozen=True)
class JaggedEvents:
    """Events of B requests, request after request: one sequence of every request, or the candidates of every request.

    - `lengths` of the requests, N in all
    - `inverse` (N,) the row of each event among the unique tokens of its feature set, int32 or (on a GPU) bit-packed
    - `side` name -> (N,) uint8 or int16
    - `age` (N,) int32, seconds from the event to its request, or None
    - `numbers` name -> (N,) float32, NaN where it is missing
    - `ngrams` "<sequence>.<field>.ngram" -> (N M,) the row of each n-gram among the distinct ones, like `inverse`;
      those of an event are side by side
    """

    lengths: Lengths
    inverse: Tensor | BitPackedIndex
    side: dict[str, Tensor]
    age: Tensor | None = None
    ngrams: dict[str, Tensor | BitPackedIndex] = field(default_factory=dict)
    numbers: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class IdLists:
    """Lists of ids, one list after the other: `lengths` of the lists, and `inverse` the row of each id among the
    distinct ones, as in `JaggedEvents`."""

    lengths: Lengths
    inverse: Tensor | BitPackedIndex


@dataclass(frozen=True)
class Feedback:
    """What happened to candidates after they were served, for twins of them to see.

    - `lengths` of the F twins, their E events twin after twin, oldest first; `inverse`, `side` and `age` of the events
      as in `JaggedEvents`. `inverse` is None where they have no ids, `age` are seconds from the request to the event
    - `twins` of the B requests; `twin` (F,) int64 the candidate of each, on the device and on the host
    - `distilled` (F, T) bool: the labels that the teacher teaches
    """

    lengths: Lengths
    inverse: Tensor | BitPackedIndex | None
    side: dict[str, Tensor]
    age: Tensor | None
    twins: Lengths
    twin: Tensor
    twin_host: NDArray[np.int32]
    distilled: Tensor


@dataclass(frozen=True)
class RequestValues:
    """What B requests have beside the ids of their context.

    - `side` name -> (B,) uint8 or int16: numbers that are sent as buckets; `numbers` name -> (B,) float32, NaN where it
      is missing
    - `week` (B,) int32: the second of the week, or None
    """

    side: dict[str, Tensor]
    numbers: dict[str, Tensor]
    week: Tensor | None


@dataclass(frozen=True)
class SequenceBatch(Multistreamable):
    """One step's input on one rank, on its device.

    - `unique`: KeyedJaggedTensor with one key per field of each feature set ("history.item"), U ids each, in samples
      that mean nothing (`samples_of` its device); `NO_LOOKUP` in a batch whose rows are found elsewhere
    - `context` (B,) row of each request in the feature set "context", like an `inverse`; None without context fields
    - `request` other values of the requests, None if the schema declares none
    - `attributes` key -> name -> what belongs to the U distinct ids of the key: (U,) float32, NaN where it is missing,
      (U,) uint8 or int16 buckets, (U, dim) float16, or U lists
    - `lists` "context.<name>" -> B lists, "candidate.<name>" -> C lists
    - `sequences` by name, `candidates` with `lengths` = candidates per request
    - `labels` (C, T) float32, 0 or 1; NaN where a task is given another task whose label is 0, where the label is not
      final, and for all tasks of a candidate that a filter takes from training
    - `observed`, `waited` (C, T) float32, for a correction of delay: see `data.targets.Labels`; None without one
    - `feedback` in training with a teacher, otherwise None
    - `oracle` (C, T) float32 or None, also where the label is NaN
    - `visible_events` of the C candidates, or None: how many of the oldest events each sees; `visible_slots`: how many
      of the oldest slots, where a filter leaves some empty
    - `chosen` (C,) bool, in evaluation with a filter: the candidates that it does not keep, for metrics
    - `grouping_key` (B,) int64, of grouped metrics
    - `candidates_per_rank` () float32: mean of the candidates with a loss per rank in this step; (T,) where labels take
      time, those of each task. The loss is divided by it: the mean of the ranks' gradients is then the gradient of the
      mean over all candidates, also if they are spread unevenly
    """

    unique: KeyedJaggedTensor
    context: Tensor | BitPackedIndex | None
    sequences: dict[str, JaggedEvents]
    candidates: JaggedEvents
    labels: Tensor
    oracle: Tensor | None
    visible_events: Lengths | None
    grouping_key: Tensor
    candidates_per_rank: Tensor
    visible_slots: Lengths | None = None
    chosen: Tensor | None = None
    observed: Tensor | None = None
    waited: Tensor | None = None
    feedback: Feedback | None = None
    request: RequestValues | None = None
    attributes: dict[str, dict[str, Tensor | IdLists]] = field(default_factory=dict)
    lists: dict[str, IdLists] = field(default_factory=dict)

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
