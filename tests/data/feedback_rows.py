"""Requests of `make_schema()` whose label `buy` takes time and whose candidates have feedback."""

from typing import Any

import numpy as np

from dist_rec.data.schema import Schema
from tests.data.requests import make_rows, make_schema

HORIZON = 500
WINDOW = 300
NOW = 1_400  # requests are at 1,000 or 200: a `buy` of the former is not final


def feedback_schema(**changes: Any) -> Schema:
    """`changes` are those of the candidate."""
    candidate = {
        "ids": ["item", "kind"],
        "labels": ["click", "buy"],
        "oracle": True,
        "delayed": {"buy": {"horizon": HORIZON}},
        "feedback": {"ids": ["item", "query"], "side": {"dwell": 6}, "time": True, "most": 2, "window": WINDOW},
    }
    return make_schema(candidate=candidate | changes)


def feedback_rows(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Of a fifth of the candidates nobody knows feedback; every other request is 800 seconds earlier, and final."""
    rng = np.random.default_rng(seed)
    return [_with_feedback(row, rng, early=800 * (number % 2)) for number, row in enumerate(make_rows(count, seed))]


def _with_feedback(row: dict[str, Any], rng: np.random.Generator, early: int) -> dict[str, Any]:
    candidates, now = len(row["candidate.item"]), row["time"] - early
    told = np.where(rng.random(candidates) < 0.2, -1, rng.integers(0, 4, candidates))
    events = told.clip(min=0)
    times = [np.sort(rng.integers(now, now + HORIZON, count)) for count in events]
    return {
        **row,
        "time": now,
        "history.time": [time - 1_000 for time in row["history.time"]],
        "candidate.buy.delay": rng.integers(0, HORIZON + 1, candidates).tolist(),
        "candidate.feedback_events": told.tolist(),
        "feedback.item": rng.integers(0, 50, events.sum()).tolist(),
        "feedback.query": rng.integers(0, 9, events.sum()).tolist(),
        "feedback.dwell": rng.integers(0, 6, events.sum()).tolist(),
        "feedback.time": [int(time) for of in times for time in of],
    }


def other_feedback(rows: list[dict[str, Any]], seed: int = 1) -> list[dict[str, Any]]:
    """The same requests; the feedback there is says something else."""
    rng = np.random.default_rng(seed)
    sizes = {"item": 50, "query": 9, "dwell": 6}
    return [
        {
            **row,
            **{
                f"feedback.{name}": rng.integers(0, size, len(row[f"feedback.{name}"])).tolist()
                for name, size in sizes.items()
            },
        }
        for row in rows
    ]
