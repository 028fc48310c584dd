"""Builds against a slow checker in plain Python, which looks at one request at a time."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dist_rec.common.strict import check
from dist_rec.data.build.build import build_dataset
from dist_rec.data.build.config import BuildConfig
from dist_rec.data.errors import DataError
from tests.data.build.brute import MICRO, Row, requests_of, vocabulary
from tests.data.build.small import ANCHORS, START, TEST, VALID, build, built, compared, config, write_csv

ITEMS, USERS = st.integers(0, 5), st.integers(0, 3)
MAYBE = {"user": st.none() | USERS, "item": st.none() | ITEMS}
EVENT = {"user": USERS, "item": ITEMS, "time": st.integers(-5, 30), "kind": st.sampled_from("ab")}
EVENT |= {"order": st.integers(0, 2)}
SHOWN = {"user": USERS, "item": ITEMS, "time": st.integers(0, 30), "page": st.integers(0, 2)}
SHOWN |= {"place": st.integers(0, 2), "click": st.integers(0, 1)}
EARLY = -60  # a minute before 1970
UNITS = {"s": 1, "ms": 1000, "us": MICRO}
FOLDERS = ("fold1", "fold2", "fold3")
# Where clocks go forward and back, from an hour before it. Rows are ten minutes apart there, and one second elsewhere.
CHANGES = [
    (datetime(2024, 3, 10, 1), "America/New_York"),
    (datetime(2024, 11, 3, 0), "America/New_York"),
    (datetime(2024, 3, 31, 1), "Europe/Berlin"),
    (datetime(2024, 10, 27, 1), "Europe/Berlin"),
]
STEP_S = 600


def rows_of(columns: dict[str, st.SearchStrategy], most: int) -> st.SearchStrategy[list[Row]]:
    """Rows of a log, most often without a missing value."""
    whole, torn = st.fixed_dictionaries(columns), st.fixed_dictionaries(columns | MAYBE)
    return st.lists(whole, max_size=most) | st.lists(torn, max_size=most)


def distinct(rows: list[Row], columns: list[str]) -> list[Row]:
    """The first of the rows that are equal in what is read."""
    return list({tuple(row[name] for name in columns): row for row in reversed(rows)}.values())[::-1]


@dataclass(frozen=True)
class Clock:
    """What the times of rows, so many steps after a start, are and how files have them."""

    start: int | datetime
    zone: str = "UTC"

    @property
    def step(self) -> int:
        """Seconds."""
        return 1 if isinstance(self.start, int) else STEP_S

    def moment(self, steps: int) -> int:
        """Microseconds. A local time that there is twice, or not at all, is that of the clock of winter."""
        if isinstance(self.start, int):
            return (self.start + steps) * MICRO
        local = self._local(steps).replace(tzinfo=ZoneInfo(self.zone))
        return max(int(local.replace(fold=fold).timestamp()) for fold in (0, 1)) * MICRO

    def written(self, steps: int, unit: str) -> int | datetime:
        return (self.start + steps) * UNITS[unit] if isinstance(self.start, int) else self._local(steps)

    def config(self, unit: str) -> dict[str, Any]:
        return {"column": "time", **({"unit": unit} if isinstance(self.start, int) else {"zone": self.zone})}

    def _local(self, steps: int) -> datetime:
        assert isinstance(self.start, datetime)
        return self.start + timedelta(seconds=steps * STEP_S)


@dataclass(frozen=True)
class Drawn:
    """What a build is asked to do, and how its logs are written. `train`: so many of FOLDERS are trained on; None:
    splits are by time."""

    delay: int
    stored: tuple[str, int | None]  # histories, most
    by_page: bool
    visible: bool
    times: bool
    train: int | None
    duplicates: str
    kind: str
    clock: Clock
    units: tuple[str, str]  # of events, of what was shown

    @property
    def limits(self) -> tuple[int, int]:
        return self.clock.moment(VALID - START), self.clock.moment(TEST - START)

    @property
    def most(self) -> int | None:
        return None if self.visible else self.stored[1]

    @property
    def has_times(self) -> bool:
        return self.times and not self.visible

    def config(self) -> dict[str, Any]:
        of_events, of_shown = (self.clock.config(unit) for unit in self.units)
        label = {"source": "events", "user": "user", "time": of_events, "match": {"item": "item"}}
        label["within"] = 10 * self.clock.step
        labels = {"click": "click"} | ({} if self.visible else {"bought": label})
        requests = {"time": of_shown, "labels": labels, "visible_events": self.visible}
        valid, test = (datetime.fromtimestamp(of / MICRO, timezone.utc).isoformat() for of in self.limits)
        events = {"delay": self.delay * self.clock.step, "time": of_events, "times": self.has_times, "most": self.most}
        by_column = {"by": "column", "column": "folder", "train": list(FOLDERS[: self.train])}
        return config(
            events=events,
            requests=requests | ({"page": "page"} if self.by_page else {}),
            split={"valid": valid, "test": test} if self.train is None else by_column,
            histories=self.stored[0],
            duplicates=self.duplicates,
            bad_rows="drop",
        )

    def shown(self, rows: list[Row]) -> list[Row]:
        """The rows that are drawn with one for each split, and folders that rows of one request have in common."""
        anchors = [{**row, "time": row["time"] - START} for row in ANCHORS]
        anchors = [{**row, "user": 9 + n * self.visible, "folder": FOLDERS[n]} for n, row in enumerate(anchors)]
        key = "page" if self.by_page else "user" if self.visible else "time"
        return [{**row, "folder": FOLDERS[((row["user"] or 0) + (row[key] or 0)) % 3]} for row in rows] + anchors

    def written(self, *logs: list[Row]) -> list[list[Row]]:
        """The rows as their files have them."""
        return [
            [{**row, "time": self.clock.written(row["time"], unit)} for row in rows]
            for rows, unit in zip(logs, self.units, strict=True)
        ]

    def read(self, *logs: list[Row]) -> list[list[Row]]:
        """The rows that count, those without a missing value, in microseconds."""
        events, shown = (
            [{**row, "time": self.clock.moment(row["time"])} for row in rows if None not in row.values()]
            for rows in logs
        )
        if self.duplicates == "keep":
            return [events, shown]
        return [distinct(events, list(EVENT)), distinct(shown, [of for of in SHOWN if self.by_page or of != "page"])]


DRAWN = st.builds(
    Drawn,
    delay=st.integers(0, 4),
    stored=st.tuples(st.just("once"), st.none()) | st.tuples(st.just("copies"), st.none() | st.integers(1, 3)),
    by_page=st.booleans(),
    visible=st.booleans(),
    times=st.booleans(),
    train=st.none() | st.integers(1, 3),
    duplicates=st.sampled_from(["keep", "drop"]),
    kind=st.sampled_from(["csv", "parquet"]),
    clock=st.sampled_from([Clock(START), Clock(EARLY), *(Clock(*of) for of in CHANGES)]),
    units=st.tuples(st.sampled_from(list(UNITS)), st.sampled_from(list(UNITS))),
)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=rows_of(EVENT, 40), shown=rows_of(SHOWN, 20), drawn=DRAWN)
def test_every_request_knows_what_was_before_it(
    tmp_path: Path, events: list[Row], shown: list[Row], drawn: Drawn
) -> None:
    shown = drawn.shown(shown)
    out = build(tmp_path / "rows", drawn.config(), *drawn.written(events, shown), drawn.kind)
    logged, seen = drawn.read(events, shown)
    cuts = drawn.limits if drawn.train is None else None
    asked: dict[str, Any] = {"delay": drawn.delay * drawn.clock.step, "most": drawn.most, "by_page": drawn.by_page}
    wanted = requests_of(logged, seen, cuts=cuts, **asked, within=10 * drawn.clock.step, visible=drawn.visible)
    train = ("train",) if drawn.train is None else FOLDERS[: drawn.train]
    known = vocabulary(logged, wanted, "item", valid=None if cuts is None else cuts[0], train=train)
    assert pq.read_table(out / "_build" / "item.parquet").column("value").to_pylist() == known
    items = ["other", *known]
    wanted = [
        replace(
            of,
            t=0 if drawn.visible else of.t // MICRO,
            events=[(_of(item, known), kind, time if drawn.has_times else None) for item, kind, time in of.events],
            candidates=[_of(item, known) for item in of.candidates],
        )
        for of in wanted
    ]
    assert compared(built(out, items)) == compared(wanted)


def _of(item: Any, known: list[Any]) -> Any:
    return item if item in known else "other"


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
