"""What a build must give, in plain Python: one request at a time, over all events of its user."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MICRO = 1_000_000
Row = dict[str, Any]


@dataclass(frozen=True)
class Request:
    """`visible`: of each candidate, how many of the events it sees, where they see events of their own."""

    split: str
    user: Any
    t: int  # microseconds
    events: list[tuple[Any, Any, int | None]]  # item, side value, seconds
    candidates: list[Any]
    clicks: list[int]
    bought: list[int]
    visible: list[int]
    began: int  # microseconds of its first row


def requests_of(
    events: list[Row],
    shown: list[Row],
    *,
    cuts: tuple[int, int] | None,
    delay: int = 0,
    most: int | None = None,
    within: int = 10,
    by_page: bool = False,
    visible: bool = False,
) -> list[Request]:
    """Rows have user, item, time in microseconds; events also kind and order, shown ones page, place, click and folder.

    `cuts`: where validation and test start; None: requests go to the folder of their rows. With `visible` all rows of a
    user, or of a page, are one request, at the time of its last row, and have no labels of later events."""
    groups: dict[tuple, list[Row]] = {}
    for number, row in enumerate(shown):
        page = row["page"] if by_page else None if visible else row["time"]
        groups.setdefault((row["user"], page), []).append({**row, "n": number})
    found = []
    for (user, _), rows in groups.items():
        times = [row["time"] for row in rows]
        t = max(times) if visible else min(times)
        rows = sorted(rows, key=lambda row: (row["time"] if visible else 0, row["place"], row["n"]))
        known = [
            (event["time"], event["order"], number, event)
            for number, event in enumerate(events)
            if event["user"] == user and event["time"] + delay * MICRO < t
        ]
        history = [event for *_, event in sorted(known, key=lambda of: of[:3])]
        history = history if most is None else history[-most:]
        if cuts is None:
            (split,) = {row["folder"] for row in rows}
        else:
            split = "train" if t < cuts[0] else "valid" if t < cuts[1] else "test"
        seen = [sum(event["time"] + delay * MICRO < row["time"] for event in history) for row in rows]
        found.append(
            Request(
                split,
                user,
                t,
                [(event["item"], event["kind"], event["time"] // MICRO) for event in history],
                [row["item"] for row in rows],
                [row["click"] for row in rows],
                [] if visible else [_bought(events, row, t, within) for row in rows],
                seen if visible else [],
                min(times),
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


def vocabulary(
    events: list[Row], requests: list[Request], field: str, *, valid: int | None, train: Sequence[str]
) -> list[Any]:
    """The ids that training knows, most frequent first, then by value: of candidates of `train`, and of events before
    `valid`; or, if that is None, of users with requests of `train`, before the first other request of the same user."""
    counts: dict[Any, int] = {}
    for event in events:
        own = [request for request in requests if request.user == event["user"]]
        if valid is not None:
            known = bool(own) and event["time"] < valid
        else:
            others = [request.began for request in own if request.split not in train]
            known = len(own) > len(others) and all(event["time"] < began for began in others)
        if known:
            counts[event[field]] = counts.get(event[field], 0) + 1
    for request in requests:
        for item in request.candidates if request.split in train else []:
            counts[item] = counts.get(item, 0) + 1
    return sorted(counts, key=lambda value: (-counts[value], value))
