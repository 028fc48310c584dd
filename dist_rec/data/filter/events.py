"""What a policy sees of the events of a batch. Columns are read when they are asked for.

Legend: B requests, N events of one owner: of a sequence, the candidates, or their feedback.
"""

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.data.later import FEEDBACK, FeedbackSchema
from dist_rec.data.owners import CandidateSchema, SequenceSchema
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows


class Events:
    """All events of one owner in some requests, request after request, before any is filtered or cut off."""

    def __init__(self, some: SomeRows, schema: Schema, owner: str) -> None:
        declared = owner_of(schema, owner)
        first = declared.columns[0] if isinstance(declared, FeedbackSchema) else declared.ids[0].name
        self.owner, self.lengths = owner, some.lists(f"{owner}.{first}").lengths
        self._some, self._schema, self._declared = some, schema, declared

    def __len__(self) -> int:
        return int(self.lengths.sum())

    @cached_property
    def request(self) -> Ints:
        """(N,) which of the B requests each event belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @property
    def names(self) -> list[str]:
        """The fields of the events: ids, then side values."""
        return [*(field.name for field in self._declared.ids), *self._declared.side]

    def field(self, name: str) -> NDArray:
        """(N,) ids or side values."""
        return self._values(name)

    def of_request(self, name: str) -> NDArray:
        """(B,) a context field, or the grouping key."""
        return self._some.scalars(name)

    @cached_property
    def age(self) -> Ints | None:
        """(N,) seconds from the event to its request; None without times."""
        declared, now = self._declared, self._schema.request.time
        if not isinstance(declared, SequenceSchema) or not declared.time or now is None:
            return None
        return self._some.scalars(now).astype(np.int64)[self.request] - self._values("time").astype(np.int64)

    @cached_property
    def score(self) -> NDArray | None:
        """(N,) from 0 to 1, or None."""
        return self._values("score") if self._declared.score else None

    @cached_property
    def reason(self) -> NDArray[np.uint8] | None:
        """(N,) bits of `Reason`, or None."""
        return self._values("reason") if self._declared.reason else None

    @cached_property
    def key(self) -> NDArray[np.uint64]:
        """(N,) a hash of grouping key, ids and time: the same in every history that the event turns up in, and, if
        candidates have the same ids, for the candidate that it was. For choices by chance that stay the same."""
        group = self.of_request(self._schema.request.grouping_key).astype(np.int64)[self.request]
        now, declared = self._schema.request.time, self._declared
        key = _mixed(group.view(np.uint64))
        for field in declared.ids:
            key = _mixed(key ^ self._values(field.name).astype(np.int64).view(np.uint64))
        if declared is self._schema.candidate and now is not None:
            return _mixed(key ^ self._some.scalars(now).astype(np.int64)[self.request].view(np.uint64))
        if not isinstance(declared, CandidateSchema) and declared.time:
            return _mixed(key ^ self._values("time").astype(np.int64).view(np.uint64))
        return key

    def _values(self, name: str) -> NDArray:
        return self._some.lists(f"{self.owner}.{name}").values


def owners_of(schema: Schema) -> list[str]:
    """The owners of events: sequences, `candidate`, and `feedback` where it is read."""
    more = [] if schema.feedback_read is None else [FEEDBACK]
    return [*(sequence.name for sequence in schema.sequences), CANDIDATE, *more]


def owner_of(schema: Schema, owner: str) -> SequenceSchema | CandidateSchema | FeedbackSchema:
    """What the schema says of a sequence, of `candidate` or of `feedback`."""
    if owner == CANDIDATE:
        return schema.candidate
    if owner == FEEDBACK and schema.candidate.feedback is not None:
        return schema.candidate.feedback
    return next(sequence for sequence in schema.sequences if sequence.name == owner)


def _mixed(key: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finaliser of SplitMix64: every bit of the result depends on every bit of the key."""
    key = key + np.uint64(0x9E3779B97F4A7C15)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return key ^ (key >> np.uint64(31))
