"""Requests from outside: valid ones become rows, and every other one says where it is wrong."""

from typing import Any

import pytest

from dist_rec.data.errors import DataError
from dist_rec.serve.request_rows import Limits, Refused, RowReader, told
from tests.serve.exports import EVENTS, SCHEMA, events_of, make_requests, table_of, without_events

READER = RowReader(SCHEMA, Limits(candidates=10, events=8))
ONE = make_requests(1)[0]


def refused(sent: Any, reader: RowReader = READER) -> Refused:
    with pytest.raises(Refused) as caught:
        row = reader.request(sent)
        _, wrong = reader.table([row])
        raise wrong[0]
    return caught.value


def test_a_whole_history() -> None:
    requests = make_requests(5)
    rows = [READER.request(request) for request in requests]
    table, wrong = READER.table(rows)
    assert not wrong and table.equals(table_of(requests))
    assert {row.history for row in rows} == {"whole"} and all(row.scored for row in rows)


def test_new_events_and_none() -> None:
    new = READER.request({**without_events(ONE), "new_events": events_of(ONE, slice(1))})
    assert new.history == "new" and new.values["history.item"] == ONE["history.item"][:1]
    some = READER.request({**without_events(ONE), "new_events": {"searches.query": [3]}})
    assert some.values["searches.query"] == [3] and some.values["history.item"] == []
    kept = READER.request(without_events(ONE))
    assert kept.history == "kept" and kept.values["history.item"] == []
    table, wrong = READER.table([new, some, kept])
    assert not wrong and table.num_rows == 3


def test_events_without_a_request() -> None:
    row = READER.appended(5, events_of(ONE), None, whole=True)
    assert row.history == "whole" and not row.scored and row.values["time"] == ONE["history.time"][-1]
    assert READER.appended(5, {"searches.query": [1]}, 7, whole=False).values["time"] == 7
    table, wrong = READER.table([row])
    assert not wrong and table.column("candidate.item")[0].as_py() == [] and table.column("user")[0].as_py() == 5
    with pytest.raises(Refused, match="all columns of the history"):
        READER.appended(5, {"searches.query": [1]}, 7, whole=True)


@pytest.mark.parametrize(
    ("change", "place", "expected", "got"),
    [
        ({"user": None}, "user", "a value", "null"),
        ({"user": "x"}, "user", "integers", "string"),
        ({"user": 1000}, "user", "an id from 0 to 999", "1000"),
        ({"user": 2**80}, "user", "int", "too large"),
        ({"time": 1.5}, "history.time", "", ""),
        ({"time": "now"}, "time", "integers (seconds)", "string"),
        ({"candidate.item": 5}, "candidate.item", "a list", "5"),
        ({"candidate.item": [1] * 11, "candidate.kind": [1] * 11}, "candidate.item", "at most 10 entries", "11"),
        ({"history.item": [1] * 9}, "history.item", "at most 8 entries", "9"),
        ({"candidate.item": [1]}, "candidate.kind", "1 entries as in candidate.item", "entries"),
        (
            {"candidate.item": [50, 1], "candidate.kind": [1, 1]},
            "candidate.item",
            "an id from 0 to 49",
            "50 at entry 0",
        ),
        ({"history.action": [[]]}, "history.action", "integers", "list"),
        ({"new_events": {}}, "new_events", "not both", "history.item beside it"),
        ({"": 1}, "an empty text", "one of user, time", "a name"),
        ({"candidate.item": ""}, "candidate.item", "a list", "an empty text"),
        ({"nmae": 1}, "nmae", "one of user, time", "a name"),
        ({"x" * 999: 1}, "x" * 200 + "...", "one of user, time", "a name"),
    ],
)
def test_what_is_wrong(change: dict[str, Any], place: str, expected: str, got: str) -> None:
    error = refused({**ONE, **change})
    assert error.place == place and expected in error.expected and got in error.got
    assert not error.history_needed and len(error.got) < 300


@pytest.mark.parametrize("sent", [None, 5, "x", [], [ONE]])
def test_what_is_no_object(sent: Any) -> None:
    assert refused(sent).expected == "an object with the columns of a request"


@pytest.mark.parametrize("name", [*without_events(ONE), *EVENTS])
def test_what_is_missing(name: str) -> None:
    error = refused({key: value for key, value in ONE.items() if key != name})
    assert error.place == name and error.got.startswith("none")


@pytest.mark.parametrize(
    ("events", "place"),
    [
        (5, "new_events"),
        ({"history.item": [1]}, "new_events.history.kind"),
        ({"candidate.item": [1]}, "new_events.candidate.item"),
        ({"searches.query": None}, "searches.query"),
        ({"searches.query": [9]}, "searches.query"),
    ],
)
def test_wrong_new_events(events: Any, place: str) -> None:
    assert refused({**without_events(ONE), "new_events": events}).place == place


@pytest.mark.parametrize(
    ("after", "place", "expected"),
    [
        (5, "after", "an object"),
        ({"histories": 1}, "after.histories", "one of history, searches"),
        ({"history": -1}, "after.history", "a number of events"),
        ({"history": True}, "after.history", "a number of events"),
        ({"searches": 1}, "after.history", "a number of events, as it has new ones"),
    ],
)
def test_wrong_places_of_new_events(after: Any, place: str, expected: str) -> None:
    events = {name: of for name, of in events_of(ONE, slice(1)).items() if name.startswith("history")}
    error = refused({**without_events(ONE), "new_events": events, "after": after})
    assert error.place == place and expected in error.expected


def test_places_of_new_events() -> None:
    row = READER.appended(5, {"searches.query": [1]}, None, whole=False)
    assert READER.after(row, None).after is None and not row.timed
    assert READER.after(row, {"searches": 2}).after == {"searches": 2}
    for sent in (ONE, without_events(ONE)):
        assert refused({**sent, "after": {"searches": 2}}).place == "after"


def test_one_wrong_row_is_no_matter_of_the_others() -> None:
    requests = make_requests(9)
    for place in (3, 7):
        requests[place] = {**requests[place], "user": 5000 + place}
    requests[5] = {**requests[5], "candidate.item": [True, False], "candidate.kind": [1, 1]}
    table, wrong = READER.table([READER.request(request) for request in requests])
    assert wrong.keys() == {3, 5, 7} and "5007" in wrong[7].got
    good = [place for place in range(9) if place not in wrong]
    assert table.num_rows == 9 and table.take(good).equals(table_of([requests[place] for place in good]))


def test_places_inside_larger_ones() -> None:
    error = Refused("user", "a value", None, history_needed=True).below("requests[2]")
    assert str(error) == "requests[2].user: expected a value, got null" and error.history_needed
    assert told(DataError("something else")).place == "request"
