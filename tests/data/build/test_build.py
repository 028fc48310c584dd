"""Builds against a slow checker in plain Python, which looks at one request at a time."""

from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_rec.common.strict import check
from dist_rec.data.build.build import build_dataset
from dist_rec.data.build.config import BuildConfig
from dist_rec.data.errors import DataError
from tests.data.build.brute import MICRO, Request, Row, requests_of, vocabulary
from tests.data.build.small import ANCHORS, START, TEST, VALID, build, built, compared, config, write_csv

ITEMS, USERS = st.integers(0, 5), st.integers(0, 3)
MAYBE = {"user": st.none() | USERS, "item": st.none() | ITEMS}
EVENT = {"user": USERS, "item": ITEMS, "time": st.integers(-5, 30), "kind": st.sampled_from("ab")}
EVENT |= {"order": st.integers(0, 2)}
SHOWN = {"user": USERS, "item": ITEMS, "time": st.integers(0, 30), "page": st.integers(0, 2)}
SHOWN |= {"place": st.integers(0, 2), "click": st.integers(0, 1)}
EARLY = -60  # a minute before 1970
UNITS = {"s": 1, "ms": 1000, "us": MICRO}


def rows_of(columns: dict[str, st.SearchStrategy], most: int) -> st.SearchStrategy[list[Row]]:
    """Rows of a log, most often without a missing value."""
    whole, torn = st.fixed_dictionaries(columns), st.fixed_dictionaries(columns | MAYBE)
    return st.lists(whole, max_size=most) | st.lists(torn, max_size=most)


def distinct(rows: list[Row], columns: list[str]) -> list[Row]:
    """The first of the rows that are equal in what is read."""
    return list({tuple(row[name] for name in columns): row for row in reversed(rows)}.values())[::-1]


def in_units(rows: list[Row], per_second: int) -> list[Row]:
    return [{**row, "time": row["time"] * per_second} for row in rows]


@dataclass(frozen=True)
class Drawn:
    """What a build is asked to do, and how its logs are written."""

    delay: int
    stored: tuple[str, int | None]  # histories, most
    by_page: bool
    duplicates: str
    kind: str
    start: int
    units: tuple[str, str]  # of events, of what was shown

    def at(self, time: int) -> int:
        return time - START + self.start

    def config(self) -> dict[str, Any]:
        histories, most = self.stored
        of_events, of_shown = ({"column": "time", "unit": unit} for unit in self.units)
        label = {"source": "events", "user": "user", "time": of_events, "match": {"item": "item"}, "within": 10}
        requests = {"time": of_shown, "labels": {"click": "click", "bought": label}}
        valid, test = (datetime.fromtimestamp(self.at(time), timezone.utc).isoformat() for time in (VALID, TEST))
        return config(
            events={"delay": self.delay, "time": of_events} | ({} if most is None else {"most": most}),
            requests=requests | ({"page": "page"} if self.by_page else {}),
            split={"valid": valid, "test": test},
            histories=histories,
            duplicates=self.duplicates,
            bad_rows="drop",
        )

    def written(self, events: list[Row], shown: list[Row]) -> tuple[list[Row], list[Row]]:
        """The rows as their files have them."""
        first, second = (UNITS[unit] for unit in self.units)
        return in_units(events, first), in_units(shown, second)

    def read(self, events: list[Row], shown: list[Row]) -> tuple[list[Row], list[Row]]:
        """The rows that count, those without a missing value, in microseconds."""
        events, shown = (in_units([row for row in rows if None not in row.values()], MICRO) for rows in (events, shown))
        if self.duplicates == "keep":
            return events, shown
        return distinct(events, list(EVENT)), distinct(shown, [of for of in SHOWN if self.by_page or of != "page"])


DRAWN = st.builds(
    Drawn,
    delay=st.integers(0, 4),
    stored=st.tuples(st.just("once"), st.none()) | st.tuples(st.just("copies"), st.none() | st.integers(1, 3)),
    by_page=st.booleans(),
    duplicates=st.sampled_from(["keep", "drop"]),
    kind=st.sampled_from(["csv", "parquet"]),
    start=st.sampled_from([START, EARLY]),
    units=st.tuples(st.sampled_from(list(UNITS)), st.sampled_from(list(UNITS))),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=rows_of(EVENT, 40), shown=rows_of(SHOWN, 20), drawn=DRAWN)
def test_every_request_knows_what_was_before_it(
    tmp_path: Path, events: list[Row], shown: list[Row], drawn: Drawn
) -> None:
    events = [{**row, "time": drawn.start + row["time"]} for row in events]
    shown = [{**row, "time": drawn.start + row["time"]} for row in shown]
    shown += [{**row, "time": drawn.at(row["time"])} for row in ANCHORS]
    out = build(tmp_path / "rows", drawn.config(), *drawn.written(events, shown), drawn.kind)
    logged, seen = drawn.read(events, shown)
    limits: dict[str, Any] = {"valid": drawn.at(VALID) * MICRO, "test": drawn.at(TEST) * MICRO}
    asked: dict[str, Any] = {"delay": drawn.delay, "most": drawn.stored[1], "by_page": drawn.by_page}
    wanted = requests_of(logged, seen, **limits, **asked, within=10)
    known = vocabulary(logged, seen, wanted, "item", limits["valid"])
    assert pq.read_table(out / "_build" / "item.parquet").column("value").to_pylist() == known
    items = ["other", *known]
    wanted = [
        Request(
            of.split,
            of.user,
            of.t // MICRO,
            [(item if item in known else "other", kind_, time) for item, kind_, time in of.events],
            [item if item in known else "other" for item in of.candidates],
            of.clicks,
            of.bought,
        )
        for of in wanted
    ]
    assert compared(built(out, items)) == compared(wanted)


def test_a_place_that_holds_the_sources_is_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "events.csv", ANCHORS)
    write_csv(tmp_path / "shown.csv", ANCHORS)
    with pytest.raises(DataError, match="expected another place than the sources, which would be deleted"):
        build_dataset(check(BuildConfig, config(), "here"), tmp_path, folder=tmp_path, force=True)
    assert (tmp_path / "events.csv").exists()


def test_a_query_gives_the_same_bytes_whatever_the_threads(tmp_path: Path) -> None:
    rows = [{"user": 9, "item": n % 50, "time": START - n % 7, "kind": "a", "order": 0} for n in range(3000)]
    query = {"query": "SELECT DISTINCT user, item, time, kind FROM logged"}
    tree = config(sources={"logged": "events.csv", "events": query, "shown": "shown.csv"}, events={"order": []})
    write_csv(tmp_path / "events.csv", rows)
    write_csv(tmp_path / "shown.csv", ANCHORS)
    found = []
    for threads in (1, 2):
        out = tmp_path / f"out{threads}"
        build_dataset(check(BuildConfig, tree, "here"), out, folder=tmp_path, threads=threads)
        found.append(pq.read_table(out / "test").column("history.item").to_pylist())
    assert found[0] == found[1]
