import numpy as np

from dist_rec.data.filter.events import Events, owner_of, owners_of
from dist_rec.data.some_rows import SomeRows
from tests.data.later import FEEDBACK, later_rows, later_schema
from tests.data.requests import make_rows, make_schema, make_table

ROWS, SCHEMA = make_rows(9), make_schema()


def _events(owner: str, rows: list[int]) -> Events:
    return Events(SomeRows(make_table(ROWS), np.array(rows)), SCHEMA, owner)


def test_columns_of_some_rows() -> None:
    picked = [7, 2, 2]
    events = _events("history", picked)
    assert events.names == ["item", "kind", "action", "page"]
    for name in events.names:
        assert events.field(name).tolist() == [value for row in picked for value in ROWS[row][f"history.{name}"]]
    assert events.lengths.tolist() == [len(ROWS[row]["history.item"]) for row in picked] and len(events) > 0
    assert events.request.tolist() == np.repeat(range(3), events.lengths).tolist()
    assert events.of_request("user").tolist() == picked
    assert events.age is not None and events.score is None and events.reason is None
    assert events.age.tolist() == [1000 - time for row in picked for time in ROWS[row]["history.time"]]
    assert _events("candidate", picked).age is None and _events("searches", picked).age is None


def test_the_key_of_an_event_is_its_own() -> None:
    """The same in another batch; another one for another user, item or time."""
    alone, together = _events("history", [4]), _events("history", [1, 4, 5])
    assert alone.key.tolist() == together.key[together.request == 1].tolist()
    events = {
        (row, *values)
        for row in range(9)
        for values in zip(*(ROWS[row][f"history.{name}"] for name in ("item", "kind", "time")), strict=True)
    }
    assert len(set(_events("history", list(range(9))).key.tolist())) == len(events)


def test_a_candidate_has_the_key_of_the_event_that_it_becomes() -> None:
    schema = make_schema(
        sequences=[{"name": "history", "ids": ["item"], "time": True}], candidate={"ids": ["item"], "labels": ["click"]}
    )
    shown = {"user": 3, "time": 500, "history.item": [], "history.time": [], "candidate.item": [7]}
    later = {"user": 3, "time": 900, "history.item": [7], "history.time": [500], "candidate.item": [8]}
    table = make_table([of | {"candidate.click": [1]} for of in (shown, later)], schema)
    some = SomeRows(table, np.arange(2))
    candidate, event = (Events(some, schema, owner).key for owner in ("candidate", "history"))
    assert candidate[0] == event[0] and candidate[1] != event[0]


def test_columns_of_feedback() -> None:
    """Which has no score and no reason, and no age: it comes after the request."""
    rows = later_rows(9)
    for declared, names in ((FEEDBACK, ["item", "kind", "dwell", "page"]), ({"time": True}, [])):
        schema, picked = later_schema(declared), [7, 2, 2]
        events = Events(SomeRows(make_table(rows, schema), np.array(picked)), schema, "feedback")
        assert events.names == names and events.lengths.tolist() == [len(rows[row]["feedback.time"]) for row in picked]
        for name in names:
            assert events.field(name).tolist() == [of for row in picked for of in rows[row][f"feedback.{name}"]]
        assert len(events) > 0 and events.age is events.score is events.reason is None
        times = [(row, time) for row in picked for time in rows[row]["feedback.time"]]
        assert len(set(events.key.tolist())) == len(set(times)) or names


def test_the_owners_of_a_schema() -> None:
    assert owners_of(SCHEMA) == ["history", "searches", "candidate"]
    later = later_schema()
    assert owners_of(later) == ["history", "searches", "candidate", "feedback"]
    assert owner_of(later, "feedback") is later.candidate.feedback and owners_of(later.as_served()) == owners_of(SCHEMA)
    assert owner_of(SCHEMA, "searches") is SCHEMA.sequences[1] and owner_of(SCHEMA, "candidate") is SCHEMA.candidate
