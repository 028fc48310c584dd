"""Builds against a slow checker in plain Python, which looks at one request at a time."""

from pathlib import Path

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
EVENT = st.fixed_dictionaries(
    {
        "user": USERS,
        "item": ITEMS,
        "time": st.integers(START - 5, START + 30),
        "kind": st.sampled_from("ab"),
        "order": st.integers(0, 2),
    }
)
SHOWN = st.fixed_dictionaries(
    {
        "user": USERS,
        "item": ITEMS,
        "time": st.integers(START, START + 30),
        "page": st.integers(0, 2),
        "place": st.integers(0, 2),
        "click": st.integers(0, 1),
    }
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(EVENT, max_size=40),
    shown=st.lists(SHOWN, max_size=20),
    delay=st.integers(0, 4),
    most=st.none() | st.integers(1, 3),
    by_page=st.booleans(),
    kind=st.sampled_from(["csv", "parquet"]),
)
def test_every_request_knows_what_was_before_it(
    tmp_path: Path,
    events: list[Row],
    shown: list[Row],
    delay: int,
    most: int | None,
    by_page: bool,
    kind: str,
) -> None:
    shown = shown + ANCHORS
    page = {"page": "page"} if by_page else {}
    tree = config(events={"delay": delay} | ({} if most is None else {"most": most}), requests=page)
    out = build(tmp_path / "rows", tree, events, shown, kind)
    logged, seen = ([{**row, "time": row["time"] * MICRO} for row in rows] for rows in (events, shown))
    wanted = requests_of(
        logged, seen, valid=VALID * MICRO, test=TEST * MICRO, delay=delay, most=most, by_page=by_page, within=10
    )
    known = vocabulary(logged, seen, wanted, "item", VALID * MICRO)
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
