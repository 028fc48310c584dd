"""The columns of what a filter leaves of some requests, as arrays.

Shapes: B requests, N events of one owner, which is a sequence or `candidate`.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dist_rec.data.columns import Ints
from dist_rec.data.filter.event_filter import Left
from dist_rec.data.gather import gather_ages
from dist_rec.data.id_field import IdField
from dist_rec.data.later import FeedbackSchema
from dist_rec.data.numbers import as_sent
from dist_rec.data.open_ids import hidden_id, ids_as_read
from dist_rec.data.owners import CandidateSchema, SequenceSchema
from dist_rec.data.schema import Schema


@dataclass(frozen=True)
class OwnerColumns:
    """One sequence, the candidates or their feedback, of B requests: ids (N,) per field, other tensors
    by name, and the names of its side values."""

    ids: list[NDArray]
    tensors: dict[str, Tensor]
    plain_bytes: int
    side: tuple[str, ...]

    def numbers(self, name: str) -> NDArray | None:
        """One of the tensors, or None if there is no such one."""
        return self.tensors[name].numpy() if name in self.tensors else None


@dataclass(frozen=True)
class Reading:
    """What is `left` of some requests; of sequences the newest `max_length` events."""

    left: Left
    schema: Schema
    max_length: int | None

    def values(self, owner: str, name: str) -> NDArray:
        """(N,) of a list column."""
        kept = self.left.kept.get(owner)
        most = self.max_length if owner in self._sequences and kept is None else None
        values = self.left.some.lists(f"{owner}.{name}", most).values
        return values if kept is None else kept.of(values)

    def shown(self, owner: str, name: str, hidden: int | float) -> NDArray:
        """(N,) ids, side values or numbers, with the value `hidden` in the place of what is hidden."""
        kept = self.left.kept.get(owner)
        if kept is None:
            return self.values(owner, name)
        return kept.shown(self.left.some.lists(f"{owner}.{name}").values, hidden)

    def lengths(self, owner: str, name: str) -> Ints:
        """(B,) of a list column."""
        kept = self.left.kept.get(owner)
        most = self.max_length if owner in self._sequences else None
        return self.left.some.lists(f"{owner}.{name}", most).lengths if kept is None else kept.lengths

    def now(self) -> Ints:
        """(B,) seconds: the time of each request."""
        assert self.schema.request.time is not None, "the schema asks for it where anything has times"
        return self.left.some.scalars(self.schema.request.time).astype(np.int64)

    def ages(self, sequence: str) -> NDArray[np.int32]:
        """(N,) seconds from each event to its request."""
        kept = self.left.kept.get(sequence)
        times = self.left.some.lists(f"{sequence}.time", self.max_length if kept is None else None)
        ages = gather_ages(times.entries.astype(np.int64, copy=False), times.starts, times.lengths, self.now())
        return ages if kept is None else kept.of(ages)

    def events(self, owner: str, declared: SequenceSchema | CandidateSchema) -> OwnerColumns:
        """A sequence or the candidates."""
        lengths = self.lengths(owner, declared.ids[0].name)
        tensors = {f"lengths.{owner}": torch.from_numpy(lengths.astype(np.int32)), **self.side(owner, declared)}
        if isinstance(declared, SequenceSchema) and declared.time:
            tensors[f"age.{owner}"] = torch.from_numpy(self.ages(owner))
        # As KeyedJaggedTensors of int64 and of float32: 8 bytes per value, 4 of a number, and 4 bytes of length per
        # request, for every field and the time.
        wide = len(declared.ids) + len(declared.side) + (f"age.{owner}" in tensors)
        count, numbers = int(lengths.sum()), len(declared.numbers)
        plain_bytes = wide * (8 * count + 4 * len(lengths)) + numbers * (4 * count + 4 * len(lengths))
        tensors |= self.sent_numbers(owner, declared)
        kept = self.left.kept.get(owner)
        if kept is not None and kept.slots is not None:
            narrow = kept.slots.lengths.max(initial=0) < 2**15
            position = kept.slots.position.astype(np.int16) if narrow else kept.slots.position
            tensors[f"slot.{owner}"] = torch.from_numpy(position)
            tensors[f"slots.{owner}"] = torch.from_numpy(kept.slots.lengths)
        return OwnerColumns(self.ids(owner, declared), tensors, plain_bytes, tuple(self.schema.side_values(declared)))

    def ids(self, owner: str, declared: SequenceSchema | CandidateSchema | FeedbackSchema) -> list[NDArray]:
        """(N,) per field."""
        return [self._ids_of(owner, field) for field in declared.ids]

    def context(self) -> list[NDArray]:
        """(B,) per field."""
        schema = self.schema
        return [ids_as_read(schema, of.table, self.left.some.scalars(of.name)) for of in schema.context]

    def _ids_of(self, owner: str, field: IdField) -> NDArray:
        hidden, kept = hidden_id(self.schema, field.table), self.left.kept.get(owner)
        if kept is None:
            return ids_as_read(self.schema, field.table, self.values(owner, field.name))
        values = self.left.some.lists(f"{owner}.{field.name}").values
        return kept.shown(ids_as_read(self.schema, field.table, values), hidden)

    def side(self, owner: str, declared: SequenceSchema | CandidateSchema | FeedbackSchema) -> dict[str, Tensor]:
        """`side.<owner>.<name>` (N,) uint8 up to 256 values and int16 above; of numbers, too, that are sent as
        buckets."""
        found = {}
        for name, values in self.schema.side_values(declared).items():
            number = declared.numbers.get(name)
            if number is None:
                shown = self.shown(owner, name, declared.side[name])
            else:
                shown = number.buckets_of(self.shown(owner, name, np.nan))
            found[f"side.{owner}.{name}"] = narrow(shown, values)
        return found

    def sent_numbers(self, owner: str, declared: SequenceSchema | CandidateSchema) -> dict[str, Tensor]:
        """`number.<owner>.<name>` (N,) float32, NaN where it is missing or hidden."""
        return {
            f"number.{owner}.{name}": torch.from_numpy(self.shown(owner, name, np.nan))
            for name in as_sent(declared.numbers)
        }

    @property
    def _sequences(self) -> list[str]:
        return [sequence.name for sequence in self.schema.sequences]


def narrow(values: NDArray, count: int) -> Tensor:
    """Values from 0 to `count` - 1 as uint8 up to 256 of them, and as int16 above."""
    return torch.from_numpy(values.astype(np.uint8 if count <= 2**8 else np.int16, copy=False))
