"""Requests of many users -> scores, by states that are kept between requests. Knows nothing of HTTP.

Legend: B requests, C candidates, T tasks.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.serve.columns import appended, event_columns, newest
from dist_rec.serve.engine import Engine
from dist_rec.serve.request_rows import Limits, Refused, Row, RowReader
from dist_rec.serve.state_bytes import Kept
from dist_rec.serve.user_state import UserState
from dist_rec.serve.user_states import Known, UserStates


@dataclass(frozen=True)
class Answer:
    """- `cached`: nothing of the user's history was computed for it
    - `scores`: task -> probability of each candidate in their order
    - `events` that are kept of each sequence
    """

    user: str
    cached: bool
    scores: dict[str, list[float]]
    events: dict[str, int]


Result = Answer | Refused


@dataclass
class _Work:
    """What is known of B requests on the way. `state` of each; None where it is refused, or not known yet."""

    rows: list[Row]
    table: pa.Table
    users: list[str]
    times: Ints
    known: dict[str, Known]
    refused: dict[int, Refused] = field(default_factory=dict)
    state: dict[int, UserState] = field(default_factory=dict)
    cached: set[int] = field(default_factory=set)
    changed: dict[str, Kept] = field(default_factory=dict)
    aged: dict[str, Kept] = field(default_factory=dict)


class Service:
    """One model over the states of users. Its probabilities are those of `Engine.score_whole` of the whole history of a
    user at the time of the request; with `stale_seconds` ages of events may be too small by so many seconds.

    Not to be called from two threads at once."""

    def __init__(
        self, engine: Engine, states: UserStates, limits: Limits | None = None, *, stale_seconds: int = 0
    ) -> None:
        self.engine, self.states, self.stale_seconds = engine, states, stale_seconds
        self.reader = RowReader(engine.schema, limits or Limits())
        self._schema, self._names = engine.schema, event_columns(engine.schema)
        self._candidates = f"{CANDIDATE}.{engine.schema.candidate.ids[0].name}"
        self._origin = origin_of(engine)

    def handle(self, bodies: Sequence[Sequence[Row]]) -> list[list[Result] | Refused]:
        """Of each body the results of its requests, in order. Requests of one user see what came before.

        A body with a malformed request is refused as a whole, before anything of it is done. Other bodies, and requests
        whose history is needed beside others of their body, change nothing for one another. States are kept only after
        everything was scored, so an exception leaves them as they were."""
        rows = [row for body in bodies for row in body]
        if not rows:
            return [[] for _ in bodies]
        table, wrong = self.reader.table(rows)
        found: list[list[Result] | Refused] = []
        good: list[int] = []
        at = 0
        for body in bodies:
            places = range(at, at + len(body))
            at += len(body)
            first = next((place for place in places if place in wrong), None)
            if first is None:
                found.append([])
                good += places
            else:
                found.append(wrong[first].below(f"requests[{first - places[0]}]"))
        results = iter(self._run([rows[place] for place in good], table.take(pa.array(good, pa.int64()))))
        return [
            of if isinstance(of, Refused) else [next(results) for _ in body]
            for of, body in zip(found, bodies, strict=True)
        ]

    def forget(self, users: Sequence[str]) -> None:
        """Raises OSError if a store cannot be reached."""
        self.states.delete(users)

    def user_key(self, user: str) -> str:
        """How a user is named among states, from text. Raises Refused."""
        try:
            row = self.reader.appended(int(user), {}, None, whole=False)
        except ValueError:
            raise Refused("user", f"an integer, as {self._schema.request.grouping_key} is", user) from None
        table, wrong = self.reader.table([row])
        if wrong:
            raise wrong[0]
        return str(table.column(self._schema.request.grouping_key)[0].as_py())

    def _run(self, rows: list[Row], table: pa.Table) -> list[Result]:
        if not rows:
            return []
        table = table.combine_chunks()
        users = [str(user) for user in table.column(self._schema.request.grouping_key).to_pylist()]
        distinct = list(dict.fromkeys(users))
        known = dict(zip(distinct, self.states.get(distinct, self.engine.version, self._origin), strict=True))
        name = self._schema.request.time
        times = np.zeros(len(rows), np.int64) if name is None else table.column(name).to_numpy().astype(np.int64)
        work = _Work(rows, table, users, times, known)
        for places in _rounds(users):
            self._advance(work, places)
        scores = self._scored(work)
        self.states.put(list(work.changed.values()))
        self.states.refresh([kept for user, kept in work.aged.items() if user not in work.changed])
        return [self._result(work, place, scores) for place in range(len(rows))]

    def _advance(self, work: _Work, places: list[int]) -> None:
        """The states of requests of different users, in one batch."""
        places = self._checked(work, places)
        given = newest(work.table.select(self._names), self._schema, self.engine.max_length)
        whole: list[int] = []
        new: list[int] = []
        old: list[int] = []
        for place in places:
            state, now = work.known[work.users[place]].state, int(work.times[place])
            holds = state is not None and state.holds_at(now, self.stale_seconds)
            history = work.rows[place].history
            if history == "whole":
                same = state is not None and state.events.equals(given.slice(place, 1))
                (old if same else whole).append(place)
            elif history == "new" and self._any_events(work, place):
                new.append(place)
                continue
            else:
                old.append(place)
            if holds and old and old[-1] == place:
                assert state is not None, "it holds"
                old.pop()
                work.state[place] = state
                work.cached.add(place)
        todo = [*whole, *new, *old]
        if not todo:
            return
        tables = [given.take(pa.array(whole))] if whole else []
        if new:
            more = work.table.select(self._names).take(pa.array(new))
            tables.append(appended(self._events(work, new), more, self._schema))
        if old:
            tables.append(self._events(work, old))
        events = pa.concat_tables([table.cast(given.schema) for table in tables]).combine_chunks()
        before = [work.known[work.users[place]].state for place in todo]
        states = self.engine.encode(self._at(events, work.times[todo]), before)
        followed = set(old)
        for place, state in zip(todo, states, strict=True):
            user = work.users[place]
            work.state[place] = state
            # Events that another version kept are written again too: with this version's state.
            aged = place in followed and work.known[user].state is not None and user not in work.changed
            (work.aged if aged else work.changed)[user] = Kept(user, self._origin, state)
            work.known[user] = Known(state, state.events)

    def _checked(self, work: _Work, places: list[int]) -> list[int]:
        """Those whose history is known and goes together with what came."""
        asked: list[int] = []
        found: list[int] = []
        for place in places:
            known, row = work.known[work.users[place]], work.rows[place]
            if row.history != "whole" and known.events is None:
                came = "none, and none is kept of the user" if row.history == "kept" else "new events of an unknown one"
                work.refused[place] = Refused("history", "the whole history", came, history_needed=True)
                continue
            if row.history == "new" and (error := self._too_many(known, row)) is not None:
                work.refused[place] = error
                continue
            found.append(place)
            # A state holds events up to its own time, so a later request without events needs no look at them.
            before = known.state is None or work.times[place] < known.state.as_of
            if row.history == "new" or (row.history == "kept" and before):
                asked.append(place)
        if not asked:
            return found
        last = newest(self._events(work, asked), self._schema, 1)
        table = appended(last, work.table.select(self._names).take(pa.array(asked)), self._schema)
        together = [Row(row, "new") for row in self._at(table, work.times[asked]).to_pylist()]
        neutral = {name: [] if column.is_list else 0 for name, column in self.reader.others.items()}
        _, wrong = self.reader.table([replace(row, values={**neutral, **row.values}) for row in together])
        for number, error in wrong.items():
            work.refused[asked[number]] = error
        return [place for place in found if place not in work.refused]

    def _scored(self, work: _Work) -> dict[int, dict[str, list[float]]]:
        """Task -> probabilities of every request that is scored, in one batch."""
        scored = [place for place in sorted(work.state) if work.rows[place].scored]
        nothing: dict[int, dict[str, list[float]]] = {
            place: {task: [] for task in self._schema.candidate.labels} for place in scored
        }
        places = [place for place in scored if len(work.table.column(self._candidates)[place])]
        if not places:
            return nothing
        scores = self.engine.score([work.state[place] for place in places], work.table.take(pa.array(places)))
        ends = np.cumsum(scores.candidates)
        tasks = dict(zip(self._schema.candidate.labels, scores.probabilities.T.tolist(), strict=True))
        return nothing | {
            place: {task: of[end - count : end] for task, of in tasks.items()}
            for place, end, count in zip(places, ends.tolist(), scores.candidates.tolist(), strict=True)
        }

    def _result(self, work: _Work, place: int, scores: dict[int, dict[str, list[float]]]) -> Result:
        if place in work.refused:
            return work.refused[place]
        state = work.state[place]
        events = {name: of.events for name, of in state.sequences.items()}
        return Answer(work.users[place], place in work.cached, scores.get(place, {}), events)

    def _any_events(self, work: _Work, place: int) -> bool:
        return any(len(work.rows[place].values[name]) for name in self._names)

    def _too_many(self, known: Known, row: Row) -> Refused | None:
        if self.engine.max_length is not None or known.events is None:
            return None  # older ones are dropped
        for name in self._names:
            events = len(known.events.column(name)[0]) + len(row.values[name])
            if events > (most := self.reader.limits.events):
                return Refused(name, f"at most {most} events with those that are kept", f"{events} events")
        return None

    def _events(self, work: _Work, places: list[int]) -> pa.Table:
        found = [work.known[work.users[place]].events for place in places]
        return pa.concat_tables([events for events in found if events is not None]).combine_chunks()

    def _at(self, events: pa.Table, times: Ints) -> pa.Table:
        name = self._schema.request.time
        return events if name is None else events.append_column(name, pa.array(times, pa.int64()))


def origin_of(engine: Engine) -> str:
    """The same for models that read the same events of a user in the same columns, whatever they make of them."""
    schema = engine.schema
    parts = [schema.name, schema.tables, schema.open_ids, schema.request.model_dump(mode="json")]
    parts += [[of.model_dump(mode="json") for of in schema.sequences], engine.max_length]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def _rounds(users: Sequence[str]) -> list[list[int]]:
    """Places of requests: the first of every user, then the second, and so on."""
    seen: Counter[str] = Counter()
    found: list[list[int]] = []
    for place, user in enumerate(users):
        if seen[user] == len(found):
            found.append([])
        found[seen[user]].append(place)
        seen[user] += 1
    return found
