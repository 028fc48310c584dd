"""Requests with labels that take time and with feedback, and the same candidate by candidate for slow references."""

from typing import Any

import numpy as np

from dist_rec.data.filter.event_filter import EventFilter, Left
from dist_rec.data.reading import Reading
from dist_rec.data.schema import Schema
from dist_rec.data.some_rows import SomeRows
from tests.data.filter.policies import all_items, filter_by_item
from tests.data.requests import make_row, make_schema, make_table

Row = dict[str, Any]
HORIZON = 100
LABELS = ["click", "buy", "back", "convert"]
DELAYED: dict[str, Any] = {"back": {}, "convert": {"horizon": HORIZON}}
WINDOW = 120
FEEDBACK: dict[str, Any] = {
    "ids": ["item", "kind"],
    "side": {"dwell": 5, "page": 300},
    "time": True,
    "most": 2,
    "window": WINDOW,
}
HIDDEN = {"item": 50, "kind": 5, "dwell": 5, "page": 300}  # what a hidden feedback event shows
ACTIONS = [None, "mask", "hide", "keymask", "drop"]


def later_schema(feedback: dict[str, Any] | None = FEEDBACK, hidden: bool = False, **candidate: Any) -> Schema:
    """Four labels: of all, given another, final where the data says so, and final after a horizon."""
    of = {"ids": ["item", "kind"], "labels": LABELS, "given": {"buy": "click"}, "delayed": DELAYED}
    return make_schema(candidate=of | {"feedback": feedback} | candidate, hidden=hidden)


def later_row(rng: np.random.Generator, user: int) -> Row:
    """A request at 1000 to 1200 seconds. Its candidates have up to three feedback events within 150 seconds, or nobody
    knows of any."""
    row = make_row(rng, user)
    row["time"] = int(rng.integers(1_000, 1_201))
    count = len(row["candidate.item"])
    for label in ("back", "convert"):
        row[f"candidate.{label}"] = rng.integers(0, 2, count).tolist()
    row["candidate.back.matured"] = rng.integers(0, 2, count).tolist()
    delays = rng.integers(0, HORIZON + 1, count), rng.choice([-7, 0, HORIZON + 1, 2**40], count)
    row["candidate.convert.delay"] = np.where(row["candidate.convert"], *delays).tolist()
    told = rng.integers(-1, 4, count)
    row["candidate.feedback_events"], events = told.tolist(), told.clip(min=0)
    for name, size in (("item", 50), ("kind", 5), ("query", 9), ("dwell", 5), ("page", 300)):
        row[f"feedback.{name}"] = rng.integers(0, size, events.sum()).tolist()
    times = [np.sort(rng.integers(row["time"], row["time"] + 151, number)).tolist() for number in events]
    row["feedback.time"] = [time for of in times for time in of]
    return row


def later_rows(count: int, seed: int = 0) -> list[Row]:
    """Requests of the users 0, 1, 2, ..."""
    rng = np.random.default_rng(seed)
    return [later_row(rng, user) for user in range(count)]


def candidates_of(row: Row) -> list[Row]:
    """Every candidate by itself: its values by name, `now` of its request, and its `feedback`, one event after the
    other."""
    fields = {name.removeprefix("candidate."): row[name] for name in row if name.startswith("candidate.")}
    of_events = {name.removeprefix("feedback."): row[name] for name in row if name.startswith("feedback.")}
    found, first = [], 0
    for place, count in enumerate(fields["feedback_events"]):
        own = range(first, first + max(count, 0))
        events = [{name: values[event] for name, values in of_events.items()} for event in own]
        values = {name: of[place] for name, of in fields.items()}
        found.append(values | {"now": row["time"], "feedback": events})
        first += max(count, 0)
    return found


def left_of(rows: list[Row], action: str | None, *, of_feedback: bool = True) -> list[list[Row]]:
    """Candidates of every request that a filter leaves which does `action` to every third item: with `trained`, with
    the feedback that is left of them, all of it where it has no items, and with whether it is `known`."""
    found, to_feedback = [], action if of_feedback else None
    for row in rows:
        every = [
            of
            | {
                "trained": action is None or of["item"] % 3 > 0,
                "feedback": (left := _left(of["feedback"], to_feedback)),
            }
            | {"known": of["feedback_events"] >= 0 and (not of["feedback"] or bool(left))}
            for of in candidates_of(row)
        ]
        if action is None or any(of["trained"] for of in every):
            found.append([of for of in every if of["trained"] or action != "drop"])
    return found


def _left(feedback: list[Row], action: str | None) -> list[Row]:
    if action == "hide":
        return [event if event["item"] % 3 else event | HIDDEN for event in feedback]
    return [event for event in feedback if event["item"] % 3 or action not in ("drop", "keymask")]


def filter_of(schema: Schema, action: str | None) -> EventFilter | None:
    """The filter of `left_of`."""
    return None if action is None else filter_by_item(schema, all_items(action))


def reading_of(rows: list[Row], schema: Schema, action: str | None = None) -> Reading:
    """The columns of what `left_of` says is left."""
    some, acting = SomeRows(make_table(rows, schema), np.arange(len(rows))), filter_of(schema, action)
    return Reading(Left(some) if acting is None else acting.left(some, schema, None), schema, None)
