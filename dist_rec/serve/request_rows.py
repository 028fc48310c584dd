"""Requests from outside -> valid rows, by the code that checks the rows of a dataset.

Legend: B requests.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from dist_rec.data.columns import CANDIDATE, Column, columns_of
from dist_rec.data.errors import DataError
from dist_rec.data.schema import Schema
from dist_rec.predict.rows import valid_rows
from dist_rec.serve.columns import is_of_events

NEW_EVENTS, AFTER = "new_events", "after"
_TOLD = re.compile(
    r"(?:, row (?P<row>\d+))?(?:, field (?P<field>[^:]+))?: expected (?P<expected>.*), got:? (?P<got>.*)$"
)
_MOST_TOLD = 200  # characters of what came, in an error
History = Literal["whole", "new", "kept"]


class Refused(ValueError):
    """A request that cannot be answered: `place` in what was sent, what was `expected` there, and what was `got`.

    With `history_needed` the request is right, but the history of its user is not known here."""

    def __init__(self, place: str, expected: str, got: Any, *, history_needed: bool = False) -> None:
        self.place, self.expected, self.got = place, expected, _short(got)
        self.history_needed = history_needed
        super().__init__(f"{place}: expected {expected}, got {self.got}")

    def below(self, place: str) -> "Refused":
        """The same, found at a place inside a larger one."""
        return Refused(f"{place}.{self.place}", self.expected, self.got, history_needed=self.history_needed)


@dataclass(frozen=True)
class Limits:
    """Of one request: `candidates`, and `events` of a sequence."""

    candidates: int = 2_000
    events: int = 20_000


@dataclass(frozen=True)
class Row:
    """All columns of the schema, neutral ones where nothing came, and which `history` the columns of events are.

    - `scored`: it has candidates, and is not only events to be kept
    - `timed`: its time came with it; else it is that of the newest event, of those that are kept, too
    - `after`: how many events of each sequence came before the new ones, as the client has it; None: it does not say
    """

    values: Mapping[str, Any]
    history: History
    scored: bool = True
    timed: bool = True
    after: Mapping[str, int] | None = None


class RowReader:
    """Of one schema as a server reads it, see `serving_schema`."""

    def __init__(self, schema: Schema, limits: Limits) -> None:
        self.schema, self.limits = schema, limits
        columns = columns_of(schema)
        self.events = {column.name: column for column in columns if is_of_events(column, schema)}
        self.others = {column.name: column for column in columns if column.name not in self.events}
        self._neutral = {column.name: [] if column.is_list else 0 for column in columns}
        self._sequences = [of.name for of in schema.sequences]
        self._times = [f"{of.name}.time" for of in schema.sequences if of.time]

    def request(self, sent: Any) -> Row:
        """`sent`: the columns of the request and its candidates, and of events either all columns (the whole history),
        or {"new_events": the columns of events that happened since}, perhaps with "after" (see `after`), or none (what
        is kept of the user).

        Raises Refused for a wrong shape; values are checked by `table`."""
        self._check_names(sent, {**self.others, **self.events, NEW_EVENTS: None, AFTER: None}, self.others)
        given = [name for name in self.events if name in sent]
        if NEW_EVENTS in sent:
            if given:
                raise Refused(NEW_EVENTS, f"the whole history or {NEW_EVENTS}, not both", f"{given[0]} beside it")
            try:
                events = self._new(sent[NEW_EVENTS])
            except Refused as error:
                raise (error if error.place == NEW_EVENTS else error.below(NEW_EVENTS)) from None
            row = Row({**{name: sent[name] for name in self.others}, **events}, "new")
        elif given:
            if missing := [name for name in self.events if name not in sent]:
                raise Refused(missing[0], "all columns of the history, or none of them", f"none beside {given[0]}")
            row = Row({name: sent[name] for name in (*self.others, *self.events)}, "whole")
        else:
            row = Row({**self._neutral, **{name: sent[name] for name in self.others}}, "kept")
        self._check_sizes(row.values)
        return self.after(row, sent.get(AFTER))

    def appended(self, user: Any, events: Any, time: Any, *, whole: bool) -> Row:
        """Events of a user without a request; with `whole` there are no others. Without a `time` that of the newest.

        Raises Refused."""
        found = self._new(events)
        if whole and (missing := [name for name in self.events if name not in events]):
            raise Refused(missing[0], "all columns of the history", "none")
        request = self.schema.request
        values = {**self._neutral, **found, request.grouping_key: user}
        if request.time is not None:
            values[request.time] = self._newest(found) if time is None else time
        self._check_sizes(values)
        return Row(values, "whole" if whole else "new", scored=False, timed=time is not None)

    def after(self, row: Row, after: Any) -> Row:
        """The same new events, to be put behind `after` events of each sequence and nowhere else; None: anywhere.

        Raises Refused."""
        if after is None:
            return row
        if row.history != "new":
            raise Refused(AFTER, f"it beside {NEW_EVENTS}", "it without them")
        if not isinstance(after, Mapping):
            raise Refused(AFTER, "an object with a number of events for each sequence", after)
        for name, count in after.items():
            if name not in self._sequences:
                expected = f"one of {', '.join(self._sequences)}"
                raise Refused(f"{AFTER}.{_short(name)}", expected, "a name that the schema does not have")
            if not isinstance(count, int) or isinstance(count, bool) or count < 0:
                raise Refused(f"{AFTER}.{name}", "a number of events", count)
        for name, column in self.events.items():
            if row.values[name] and column.owner not in after:
                raise Refused(f"{AFTER}.{column.owner}", "a number of events, as it has new ones", "none")
        return replace(row, after=dict(after))

    def table(self, rows: Sequence[Row]) -> tuple[pa.Table, dict[int, Refused]]:
        """Valid rows (B,), with neutral ones in the place of those that are refused, and why each of these is.

        Rows are checked together, and where one is wrong in halves: what is wrong with one is no matter of others."""
        tables, refused = self._halves([row.values for row in rows], 0)
        return pa.concat_tables(tables).combine_chunks(), refused

    def _halves(self, rows: list[Mapping[str, Any]], first: int) -> tuple[list[pa.Table], dict[int, Refused]]:
        try:
            return [valid_rows(rows, self.schema)], {}
        except DataError as error:
            if len(rows) == 1:
                return [valid_rows([self._neutral], self.schema)], {first: told(error)}
        middle = len(rows) // 2
        before, wrong = self._halves(rows[:middle], first)
        after, more = self._halves(rows[middle:], first + middle)
        return before + after, wrong | more

    def _new(self, events: Any) -> dict[str, Any]:
        """Sequences that are left out have no new events."""
        if not isinstance(events, Mapping):
            raise Refused(NEW_EVENTS, "an object with columns of events", events)
        self._check_names(events, self.events, ())
        owners = {self.events[name].owner for name in events}
        for name, column in self.events.items():
            if column.owner in owners and name not in events:
                raise Refused(name, f"all columns of {column.owner}, or none of them", "none")
        return {name: events.get(name, []) for name in self.events}

    def _check_names(self, sent: Any, known: Mapping[str, Any], needed: Any) -> None:
        if not isinstance(sent, Mapping):
            raise Refused("request", "an object with the columns of a request", sent)
        for name in sent:
            if name not in known:
                raise Refused(_short(name), f"one of {', '.join(known)}", "a name that the schema does not have")
        for name in needed:
            if name not in sent:
                raise Refused(name, "a value", "none")

    def _check_sizes(self, values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            column: Column | None = self.events.get(name) or self.others.get(name)
            if column is None or not column.is_list:
                continue
            if not isinstance(value, list):
                raise Refused(name, "a list", value)
            of_candidates = column.owner == CANDIDATE
            most = self.limits.candidates if of_candidates else self.limits.events
            if len(value) > most:
                raise Refused(name, f"at most {most} entries", f"{len(value)} entries")
            if column.nested and sum(len(each) for each in value if isinstance(each, list)) > most * 16:
                raise Refused(name, f"at most {most * 16} ids", "more")

    def _newest(self, events: Mapping[str, Any]) -> Any:
        """Not checked yet: where the times are none, their check says so."""
        found = [events[name] for name in self._times]
        ends = [of[-1] for of in found if isinstance(of, list) and of and isinstance(of[-1], int)]
        return max(ends, default=0)


def told(error: DataError) -> Refused:
    """The parts of a message about a row."""
    message = str(error)
    found = _TOLD.search(message)
    if found is None:
        return Refused("request", "a request of this schema", message)
    return Refused(found["field"] or "request", found["expected"], found["got"])


def _short(got: Any) -> str:
    text = (got or "an empty text") if isinstance(got, str) else _kind(got)
    return text if len(text) <= _MOST_TOLD else text[:_MOST_TOLD] + "..."


def _kind(got: Any) -> str:
    if isinstance(got, Mapping):
        return "an object"
    return "a list" if isinstance(got, list) else "null" if got is None else str(got)[:_MOST_TOLD]
