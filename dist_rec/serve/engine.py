"""Scores with the work on the history done once: states of users, and candidates against them.

Legend: B users or requests, C candidates, T tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from dist_rec.data.collate import Collator
from dist_rec.data.columns import CANDIDATE, Ints, ragged_values
from dist_rec.data.host_batch import HostBatch
from dist_rec.models.halves import Halves
from dist_rec.models.protocol import SequenceModel
from dist_rec.serve.aging import BucketEnds
from dist_rec.serve.columns import appended, event_columns, filled, newest
from dist_rec.serve.encoder import Encoder, joined_states
from dist_rec.serve.tables import Tables
from dist_rec.serve.user_state import UserState

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Scores:
    """`logits` (C, T) float32 of the candidates of B requests, request after request, and how many each has (B,)."""

    logits: Tensor
    candidates: Ints

    @property
    def probabilities(self) -> Tensor:
        """(C, T) float32: the sigmoid in float64, rounded."""
        return self.logits.double().sigmoid().float()


class Engine:
    """A model that scores candidates against states of users.

    States are made by `encode`, follow new events by `append`, and time by `at`. All three give what `encode` of the
    whole history gives at that time, to rounding; `score` of it is the trainer's forward. Tables of requests have the
    columns and types of `schema` (see `dist_rec.predict.rows.valid_rows`).

    With `deterministic` every user and request is computed alone, so that its result does not depend, to the bit, on
    what it is computed with.
    """

    def __init__(
        self, version: str, collator: Collator, tables: Tables, halves: Halves, *, deterministic: bool = False
    ) -> None:
        self.version, self.schema, self.deterministic = version, collator.schema, deterministic
        self.max_length = collator.max_length  # newest events that are read of a sequence; None: all
        self._collator, self.tables, self.halves = collator, tables, halves
        config = halves.ranker.config.tokens
        self._encoder = Encoder(version, collator, tables, halves, BucketEnds(config.time_buckets), CPU)
        grams = [of.spec for of in self.schema.layout.candidate_ngrams.values()]
        self._look_back = max((max(of.orders) - 1 for of in grams), default=0)

    def encode(self, requests: pa.Table, before: Sequence[UserState | None] | None = None) -> list[UserState]:
        """States of B users from the events and times of requests (B rows); `before`: earlier states, whose work is
        used where it is the same.

        Raises ValueError for states of another version."""
        before = [None] * requests.num_rows if before is None else list(before)
        self._check([state for state in before if state is not None])
        events = newest(requests.select(event_columns(self.schema)), self.schema, self._collator.max_length)
        columns = {name: events.column(name) for name in events.column_names}
        if self.schema.request.time is not None:
            columns[self.schema.request.time] = requests.column(self.schema.request.time)
        whole = filled(columns, requests.num_rows, self.schema)
        if not self.deterministic:
            return self._encoder(whole, before) if before else []
        return [self._encoder(whole.slice(row, 1), before[row : row + 1])[0] for row in range(len(before))]

    def append(self, states: Sequence[UserState], events: pa.Table, times: Sequence[int]) -> list[UserState]:
        """States of B users after more events, a row of the columns of all sequences for each, at `times` (B,)."""
        self._check(states)
        before = pa.concat_tables([state.events for state in states]).combine_chunks()
        return self.encode(self._at(appended(before, events, self.schema), times), states)

    def at(self, states: Sequence[UserState], times: Sequence[int], *, stale: int = 0) -> list[UserState]:
        """States of B users at `times` (B,): the same ones where ages of events are in the same buckets, or were at
        most `stale` seconds ago."""
        self._check(states)
        found = list(states)
        old = [row for row, state in enumerate(states) if not state.holds_at(times[row], stale)]
        if old:
            events = pa.concat_tables([states[row].events for row in old]).combine_chunks()
            fresh = self.encode(self._at(events, [times[row] for row in old]), [states[row] for row in old])
            for row, state in zip(old, fresh, strict=True):
                found[row] = state
        return found

    @torch.no_grad()
    def score(self, states: Sequence[UserState], requests: pa.Table) -> Scores:
        """Of the candidates of B requests, each against the state of its user; columns of events are not read.

        Raises ValueError for states of another version."""
        self._check(states)
        lengths = ragged_values(requests, f"{CANDIDATE}.{self.schema.candidate.ids[0].name}").lengths
        if self.deterministic and requests.num_rows > 1:
            each = [self._logits(states[row : row + 1], requests.slice(row, 1)) for row in range(requests.num_rows)]
            return Scores(torch.cat(each), lengths)
        return Scores(self._logits(states, requests), lengths)

    def collate(self, requests: pa.Table) -> HostBatch:
        """The batch of whole requests, as the trainer's reader makes it."""
        return self._collator(requests)

    @property
    def body(self) -> SequenceModel:
        """What the recipe calls the model."""
        return self.halves.ranker.body

    def score_whole(self, requests: pa.Table) -> Scores:
        """Without states from before: `encode`, then `score`."""
        return self.score(self.encode(requests), requests)

    def _logits(self, states: Sequence[UserState], requests: pa.Table) -> Tensor:
        if not states:
            return torch.empty(0, len(self.schema.candidate.labels))
        columns = {name: requests.column(name) for name in requests.column_names}
        for name in event_columns(self.schema):
            columns.pop(name, None)
        if self._look_back:  # the n-grams of a candidate begin in the events
            events = pa.concat_tables([state.events for state in states]).combine_chunks()
            events = newest(events, self.schema, self._look_back)
            columns |= {name: events.column(name) for name in events.column_names}
        host = self._collator(filled(columns, len(states), self.schema))
        batch = host.without_lookup(CPU)
        rows = self.halves.rows(self.tables.rows(host.ids_of), batch)
        kept, lengths, pools = {}, {}, {}
        for of in self.schema.sequences:
            name = of.name
            kept[name], lengths[name] = joined_states(states, name, self.halves.ranker.body.group_size(name))
            own = [state.sequences[name].pool for state in states]
            if own[0] is not None:
                pools[name] = torch.stack([pool for pool in own if pool is not None])
        return self.halves.score(rows, batch, kept, lengths, pools)

    def _at(self, events: pa.Table, times: Sequence[int]) -> pa.Table:
        name = self.schema.request.time
        return events if name is None else events.append_column(name, pa.array(np.asarray(times, np.int64)))

    def _check(self, states: Sequence[UserState]) -> None:
        for state in states:
            if state.version != self.version:
                raise ValueError(f"expected states of model {self.version}, got one of {state.version}")
