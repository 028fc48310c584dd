"""Requests in parts: which columns are events, and what stands for the rest."""

import numpy as np
import pyarrow as pa

from dist_rec.data.columns import arrow_schema, columns_of
from dist_rec.serve.columns import (
    NO_TIME,
    appended,
    event_columns,
    events_sent,
    filled,
    newest,
    newest_time,
    same_events,
    serving_schema,
)
from tests.data.requests import make_rows, make_schema, make_table, seen_schema

SCHEMA = serving_schema(make_schema())


def test_a_server_reads_no_labels_and_no_visible_events() -> None:
    names = [column.name for column in columns_of(SCHEMA)]
    assert not [name for name in names if "click" in name or "oracle" in name]
    assert "candidate.visible_events" not in [column.name for column in columns_of(serving_schema(seen_schema()))]


def test_columns_that_are_not_given_are_zeros_and_empty_lists() -> None:
    table = filled({"user": pa.array([3, 4])}, 2, SCHEMA)
    assert table.schema == arrow_schema(SCHEMA)
    assert table.column("user").to_pylist() == [3, 4]
    assert table.column("history.item").to_pylist() == [[], []]
    assert table.column("time").to_pylist() == [0, 0]


def test_how_many_events_and_the_time_of_the_newest() -> None:
    rows = make_table(make_rows(6), SCHEMA)
    counted = events_sent(rows, SCHEMA)
    assert counted["history"].tolist() == [len(of) for of in rows.column("history.item").to_pylist()]
    assert counted["searches"].tolist() == [len(of) for of in rows.column("searches.query").to_pylist()]
    for row, times in enumerate(rows.column("history.time").to_pylist()):
        assert newest_time(rows.slice(row, 1), SCHEMA) == (times[-1] if times else NO_TIME)


def test_newest_events_and_appended_ones() -> None:
    table = make_table(make_rows(5), SCHEMA).select(event_columns(SCHEMA))
    cut = newest(table, SCHEMA, 2)
    for name in event_columns(SCHEMA):
        whole = table.column(name).to_pylist()
        assert cut.column(name).to_pylist() == [row[-2:] for row in whole]
        twice = appended(table, cut, SCHEMA).column(name).to_pylist()
        assert twice == [row + row[-2:] for row in whole]
    assert newest(table, SCHEMA, None) is table
    assert newest(table, SCHEMA, 0).column("history.item").to_pylist() == [[]] * 5


def test_missing_numbers_are_the_same() -> None:
    schema = serving_schema(make_schema(sequences=[{"name": "seen", "ids": ["item"], "numbers": {"price": {}}}]))
    one, other, longer, changed = (
        pa.table({"seen.item": [items], "seen.price": pa.array([prices], pa.list_(pa.float32()))})
        for items, prices in (
            ([1, 2], [np.nan, 3.0]),
            ([1, 2], [np.nan, 3.0]),
            ([1, 2, 2], [np.nan, 3.0, 3.0]),
            ([1, 2], [np.nan, np.nan]),
        )
    )
    assert same_events(one, other, schema)
    assert not same_events(one, longer, schema) and not same_events(one, changed, schema)
