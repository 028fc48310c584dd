"""Requests of many users -> scores, by states that are kept between requests. Knows nothing of HTTP.

Legend: B requests, C candidates, T tasks.
"""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import CANDIDATE, Ints
from dist_rec.serve.columns import NO_TIME, appended, event_columns, events_sent, newest, newest_time, same_events
from dist_rec.serve.engine import Engine
from dist_rec.serve.repeats import appended_before
from dist_rec.serve.request_rows import Limits, Refused, Row, RowReader
from dist_rec.serve.state_bytes import Kept
from dist_rec.serve.user_state import UserState
from dist_rec.serve.user_states import Known, UserStates

_INTEGER = re.compile("-?[0-9]{1,20}")  # of 64 bits


@dataclass(frozen=True)
class Answer:
    """- `cached`: nothing of the user's history was computed for it
    - `scores`: task -> probability of each candidate in their order
    - `events` that have come of each sequence
    """

    user: str
    cached: bool
    scores: dict[str, list[float]]
    events: dict[str, int]


Result = Answer | Refused


@dataclass
class _Work:
    """B requests on the way.

    - `first`: what was kept of each user before; `before`: the place of the request before of the same user, or None
    - `sent`: how many events of each sequence (B,) the requests brought
    - `state` of each that is not refused and `came`, how many events of each sequence have come, once they are known
    - `cached`: those for which nothing was computed; `repeated`: those whose new events were appended before
    """

    rows: list[Row]
    table: pa.Table
    users: list[str]
    times: Ints
    first: dict[str, Known]
    before: list[int | None]
    sent: dict[str, Ints]
    refused: dict[int, Refused] = field(default_factory=dict)
    state: dict[int, UserState] = field(default_factory=dict)
    came: dict[int, dict[str, int]] = field(default_factory=dict)
    cached: set[int] = field(default_factory=set)
    repeated: set[int] = field(default_factory=set)

    def known(self, place: int) -> Known:
        """Of the user of a request, when it came."""
        before = self.before[place]
        while before is not None and before in self.refused:
            before = self.before[before]
        if before is None or before not in self.state:  # a whole history does not wait for those before
            return self.first[self.users[place]]
        return Known(self.state[before], self.state[before].events, self.came[before])

    def events(self, places: list[int]) -> pa.Table:
        """That are known of their users."""
        found = [self.known(place).events for place in places]
        return pa.concat_tables([events for events in found if events is not None]).combine_chunks()


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
        if not _INTEGER.fullmatch(user):
            raise Refused("user", f"an integer, as {self._schema.request.grouping_key} is", user)
        row = self.reader.appended(int(user), {}, None, whole=False)
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
        first = dict(zip(distinct, self.states.get(distinct, self.engine.version, self._origin), strict=True))
        name = self._schema.request.time
        times = np.zeros(len(rows), np.int64) if name is None else table.column(name).to_numpy().astype(np.int64)
        before, rounds = _rounds(users, [row.history == "whole" for row in rows])
        work = _Work(rows, table, users, times, first, before, events_sent(table, self._schema))
        for places in rounds:
            self._advance(work, places)
        scores = self._scored(work)
        self._keep(work)
        return [self._result(work, place, scores) for place in range(len(rows))]

    def _keep(self, work: _Work) -> None:
        """The last state of every user, unless it was there."""
        last = {work.users[place]: place for place in sorted(work.state)}
        changed: list[Kept] = []
        aged: list[Kept] = []
        for user, place in last.items():
            before, state, came = work.first[user], work.state[place], work.came[place]
            if before.state is not None and before.came == came and self._same(before.state, state.events):
                if state is not before.state:
                    aged.append(Kept(user, self._origin, state, came))
            else:
                changed.append(Kept(user, self._origin, state, came))
        self.states.put(changed)
        self.states.refresh(aged)

    def _advance(self, work: _Work, places: list[int]) -> None:
        """The states of requests that need none of one another, in one batch."""
        given = newest(work.table.select(self._names), self._schema, self.engine.max_length)
        whole: list[int] = []
        new: list[int] = []
        old: list[int] = []
        for place in self._checked(work, places):
            known, history = work.known(place), work.rows[place].history
            state, before = known.state, {} if history == "whole" else known.came
            more = {} if place in work.repeated else {name: int(of[place]) for name, of in work.sent.items()}
            work.came[place] = {name: before.get(name, 0) + more.get(name, 0) for name in work.sent}
            if history == "new" and any(more.values()):
                new.append(place)
            elif history == "whole" and (state is None or not self._same(state, given.slice(place, 1))):
                whole.append(place)
            elif state is not None and state.holds_at(int(work.times[place]), self.stale_seconds):
                work.state[place] = state
                work.cached.add(place)
            else:
                old.append(place)
        todo = [*whole, *new, *old]
        if not todo:
            return
        tables = [given.take(pa.array(whole))] if whole else []
        if new:
            more = work.table.select(self._names).take(pa.array(new))
            tables.append(appended(work.events(new), more, self._schema))
        if old:
            tables.append(work.events(old))
        events = pa.concat_tables([table.cast(given.schema) for table in tables]).combine_chunks()
        before = [work.known(place).state for place in todo]
        work.state |= zip(todo, self.engine.encode(self._at(events, work.times[todo]), before), strict=True)

    def _checked(self, work: _Work, places: list[int]) -> list[int]:
        """Those whose history is known and goes together with what came."""
        new: list[int] = []
        for place in places:
            known, row = work.known(place), work.rows[place]
            if row.history == "whole":
                continue
            if known.events is not None and not row.timed:
                as_of = NO_TIME if known.state is None else known.state.as_of
                work.times[place] = max(work.times[place], newest_time(known.events, self._schema), as_of)
            if known.events is None:
                came = "none, and none is kept of the user" if row.history == "kept" else "new events of an unknown one"
                work.refused[place] = Refused("history", "the whole history", came, history_needed=True)
                continue
            try:
                if row.after is not None and appended_before(known, work.table.slice(place, 1), row.after):
                    work.repeated.add(place)
            except Refused as error:
                work.refused[place] = error
                continue
            follows = row.history == "new" and place not in work.repeated
            wrong = self._too_many(known, row) if follows else self._too_early(known, int(work.times[place]))
            if wrong is not None:
                work.refused[place] = wrong
            elif follows:
                new.append(place)
        if new:
            last = newest(work.events(new), self._schema, 1)
            table = appended(last, work.table.select(self._names).take(pa.array(new)), self._schema)
            neutral = {name: [] if column.is_list else 0 for name, column in self.reader.others.items()}
            together = [Row({**neutral, **row}, "new") for row in self._at(table, work.times[new]).to_pylist()]
            for number, error in self.reader.table(together)[1].items():
                work.refused[new[number]] = error
        return [place for place in places if place not in work.refused]

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
        return Answer(work.users[place], place in work.cached, scores.get(place, {}), work.came[place])

    def _same(self, state: UserState, events: pa.Table) -> bool:
        return same_events(state.events, events, self._schema)

    def _too_many(self, known: Known, row: Row) -> Refused | None:
        if self.engine.max_length is not None or known.events is None:
            return None  # older ones are dropped
        for name in self._names:
            events = len(known.events.column(name)[0]) + len(row.values[name])
            if events > (most := self.reader.limits.events):
                return Refused(name, f"at most {most} events with those that are kept", f"{events} events")
        return None

    def _too_early(self, known: Known, time: int) -> Refused | None:
        """As validation has it for a whole history, which needs not be looked at again here."""
        if known.events is None or (known.state is not None and time >= known.state.as_of):
            return None  # a state holds events up to its own time
        if (last := newest_time(known.events, self._schema)) <= time:
            return None
        expected = f"a time not before that of the newest event that is kept, {last}"
        return Refused(self._schema.request.time or "", expected, time)

    def _at(self, events: pa.Table, times: Ints) -> pa.Table:
        name = self._schema.request.time
        return events if name is None else events.append_column(name, pa.array(times, pa.int64()))


def origin_of(engine: Engine) -> str:
    """The same for models that read the same events of a user in the same columns, whatever they make of them."""
    schema = engine.schema
    parts = [schema.name, schema.tables, schema.open_ids, schema.request.model_dump(mode="json")]
    parts += [[of.model_dump(mode="json") for of in schema.sequences], engine.max_length]
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


def _rounds(users: Sequence[str], whole: Sequence[bool]) -> tuple[list[int | None], list[list[int]]]:
    """The place of the request before of the same user, and places in an order in which each request finds what it
    needs: one with a whole history needs nothing, another one the state of the one before."""
    last: dict[str, int] = {}
    before: list[int | None] = []
    levels: list[int] = []
    for place, user in enumerate(users):
        earlier = last.get(user)
        before.append(earlier)
        levels.append(0 if whole[place] or earlier is None else levels[earlier] + 1)
        last[user] = place
    found: list[list[int]] = [[] for _ in range(max(levels) + 1)]
    for place, level in enumerate(levels):
        found[level].append(place)
    return before, found
