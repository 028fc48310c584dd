"""What a build must give, in plain Python: one request at a time, over all events of its user."""

from dataclasses import dataclass
from typing import Any

MICRO = 1_000_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    split: str
    user: Any
    t: int  # microseconds
    events: list[tuple[Any, Any, int]]  # item, side value, seconds
    candidates: list[Any]
    clicks: list[int]
    bought: list[int]


def requests_of(
    events: list[Row],
    shown: list[Row],
    *,
    valid: int,
    test: int,
    delay: int = 0,
    most: int | None = None,
    within: int = 10,
    by_page: bool = False,
) -> list[Request]:
    """Rows have user, item, time in microseconds; events also kind and order, shown ones page, place and click."""
    groups: dict[tuple, list[Row]] = {}
    for number, row in enumerate(shown):
        key = (row["user"], row["page"]) if by_page else (row["user"], row["time"])
        groups.setdefault(key, []).append({**row, "n": number})
    found = []
    for (user, _), rows in groups.items():
        t = min(row["time"] for row in rows)
        rows = sorted(rows, key=lambda row: (row["place"], row["n"]))
        known = [
            (event["time"], event["order"], number, event)
            for number, event in enumerate(events)
            if event["user"] == user and event["time"] + delay * MICRO < t
        ]
        history = [event for *_, event in sorted(known, key=lambda of: of[:3])]
        history = history if most is None else history[-most:]
        split = "train" if t < valid else "valid" if t < test else "test"
        bought = [_bought(events, row, t, within) for row in rows]
        found.append(
            Request(
                split,
                user,
                t,
                [(event["item"], event["kind"], event["time"] // MICRO) for event in history],
                [row["item"] for row in rows],
                [row["click"] for row in rows],
                bought,
            )
        )
    return sorted(found, key=lambda of: (of.split, of.t))


def _bought(events: list[Row], row: Row, t: int, within: int) -> int:
    later = [
        event["time"]
        for event in events
        if event["user"] == row["user"] and event["item"] == row["item"] and event["time"] >= row["time"]
    ]
    return int(bool(later) and min(later) <= t + within * MICRO)


def vocabulary(events: list[Row], shown: list[Row], requests: list[Request], field: str, valid: int) -> list[Any]:
    """The ids that training knows, most frequent first, then by value."""
    users = {request.user for request in requests}
    starts: dict[tuple, int] = {}
    for request in requests:
        starts[request.user, request.t] = request.t
    counts: dict[Any, int] = {}
    for event in events:
        if event["user"] in users and event["time"] < valid:
            counts[event[field]] = counts.get(event[field], 0) + 1
    for request in requests:
        for item in request.candidates if request.split == "train" else []:
            counts[item] = counts.get(item, 0) + 1
    return sorted(counts, key=lambda value: (-counts[value], value))
