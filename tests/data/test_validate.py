import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.data.schema import Schema
from dist_rec.data.validate import DataError, open_parquet, read_row_group, validate
from tests.data.kind_rows import flat, kind_rows, kinds_schema
from tests.data.later import later_rows, later_schema
from tests.data.requests import make_rows, make_schema, make_table, seen_schema

Rows = list[dict[str, Any]]
EVENTS = {
    "history.item": [1, 2],
    "history.kind": [1, 2],
    "history.action": [1, 2],
    "history.page": [1, 2],
    "history.time": [5, 6],
}
CANDIDATES = {
    "candidate.item": [1, 2],
    "candidate.kind": [1, 2],
    "candidate.click": [0, 1],
    "candidate.buy": [0, 1],
    "candidate.click.oracle": [0.0, 1.0],
    "candidate.buy.oracle": [0.5, 0.5],
}


def _rows() -> Rows:
    return [row | EVENTS | CANDIDATES for row in make_rows(4)]


def _wide(rows: Rows) -> pa.Table:
    """A table in Arrow's own types, as someone else would write it."""
    return pa.Table.from_pylist(rows)


def test_good_rows_pass() -> None:
    validate(make_table(make_rows(20)), make_schema(), file="f", row_group=0)
    validate(_wide(_rows()), make_schema(), file="f", row_group=0)
    validate(make_table([]), make_schema(), file="f", row_group=0)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("history.item", [1, -3], "an id from 0 to 49, got -3 at entry 1"),
        ("history.item", [50, 1], "an id from 0 to 49, got 50 at entry 0"),
        ("candidate.kind", [0, 5], "an id from 0 to 4, got 5 at entry 1"),
        ("history.action", [4, 0], "an id from 0 to 3, got 4 at entry 0"),
        ("user", 1000, "an id from 0 to 999, got 1000"),
        ("user", None, "a value, got null"),
        ("history.page", None, "a list, got null"),
        ("history.page", [1, None], "a value for every entry, got null at entry 1"),
        ("history.kind", [1], "2 entries as in history.item, got 1 entries"),
        ("candidate.click", [1, 0, 0], "2 entries as in candidate.item, got 3 entries"),
        ("candidate.click", [0, 2], "a label of 0 or 1, got 2 at entry 1"),
        ("candidate.buy.oracle", [0.5, 1.5], "a probability from 0 to 1, got 1.5 at entry 1"),
        ("history.time", [6, 5], r"times in ascending order \(oldest first\), at least 6, got 5 at entry 1"),
        ("history.time", [5, 1001], "a time not after the request's 1000, got 1001 at entry 1"),
    ],
)
def test_bad_value(field: str, value: Any, expected: str) -> None:
    rows = _rows()
    rows[2][field] = value
    with pytest.raises(DataError, match=f"^part.parquet, row group 7, row 2, field {field}: expected {expected}$"):
        validate(_wide(rows), make_schema(), file="part.parquet", row_group=7)


@pytest.mark.parametrize("bad", [float("nan"), 0.5])
def test_bad_float_label(bad: float) -> None:
    rows = [row | {"candidate.click": [0.0, 1.0]} for row in _rows()]
    rows[1]["candidate.click"] = [1.0, bad]
    with pytest.raises(
        DataError, match=f"row 1, field candidate.click: expected a label of 0 or 1, got {bad} at entry 1"
    ):
        validate(_wide(rows), make_schema(), file="f", row_group=0)


def test_falling_times_are_found_behind_empty_histories() -> None:
    empty = {name: [] for name in EVENTS}
    rows = [_rows()[0] | empty, _rows()[1], _rows()[2] | empty, _rows()[3] | {"history.time": [3, 2]}]
    validate(make_table(rows[:3]), make_schema(), file="f", row_group=0)
    with pytest.raises(DataError, match=r"row 3, field history\.time"):
        validate(make_table(rows), make_schema(), file="f", row_group=0)


@pytest.mark.parametrize("seen", [-1, 3])
def test_seen_out_of_range(seen: int) -> None:
    row = {"user": 1, "history.item": [4, 5], "history.correct": [1, 0]}
    row |= {"candidate.item": [4, 5], "candidate.correct": [1, 0], "candidate.visible_events": [0, seen]}
    expected = f"row 0, field candidate.visible_events: expected a number of events from 0 to 2, got {seen} at entry 1"
    with pytest.raises(DataError, match=expected):
        validate(make_table([row], seen_schema()), seen_schema(), file="f", row_group=0)


# Of a request at 1000 with three candidates. The 1 came within the horizon, and nothing is said of where it did not.
LATER: dict[str, Any] = {
    "time": 1000,
    **{name: [*values, 1] for name, values in CANDIDATES.items()},
    "candidate.back": [0, 1, 1],
    "candidate.back.matured": [0, 1, 0],
    "candidate.convert": [0, 1, 1],
    "candidate.convert.delay": [-(2**40), 0, 100],
    "candidate.feedback_events": [2, 0, 1],
    "feedback.item": [1, 2, 3],
    "feedback.kind": [1, 2, 3],
    "feedback.dwell": [1, 2, 3],
    "feedback.page": [1, 2, 3],
    "feedback.time": [1000, 1009, 1001],
}


def _later_rows(**changes: Any) -> Rows:
    """The third of five has other values, between requests without candidates and without feedback."""
    none = {name: [] for name in LATER if name != "time"}
    silent = {name: [] for name in LATER if name.startswith("feedback.")} | {"candidate.feedback_events": [0, 0, 0]}
    rows: Rows = [LATER, LATER | none, LATER | changes, LATER | silent, LATER]
    return [row | EVENTS | of for row, of in zip(make_rows(5), rows, strict=True)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"candidate.convert.delay": [2**40, 100, 0]},
        {"candidate.convert": [0, 0, 0], "candidate.convert.delay": [101, -1, 2**62]},
        {"candidate.feedback_events": [0, 3, 0], "feedback.time": [1000, 1000, 1000]},
        {"candidate.feedback_events": [1, 1, 1], "feedback.time": [1009, 1008, 1007]},
    ],
)
def test_good_rows_with_what_comes_later(changes: dict[str, Any]) -> None:
    schema, rows = later_schema(), _later_rows(**changes)
    table = validate(_wide(rows), schema, file="f", row_group=0)
    assert table["candidate.convert.delay"].to_pylist() == [row["candidate.convert.delay"] for row in rows]
    validate(make_table(later_rows(20), schema), schema, file="f", row_group=0)
    validate(make_table([], schema), schema, file="f", row_group=0)
    served = schema.as_served()
    assert validate(_wide(rows), served, file="f", row_group=0).schema.names == make_table([], served).schema.names


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"candidate.feedback_events": [2, 1, 1]}, None, "3 events in all, as in feedback.item, got 4"),
        ({"candidate.feedback_events": [0, 0, 0]}, None, "3 events in all, as in feedback.item, got 0"),
        (
            {"candidate.feedback_events": [4, -2, 0]},
            None,
            "a number of events, 0 for none, -1 for not known, got -2 at entry 1",
        ),
        ({"candidate.feedback_events": [3, 0]}, None, "3 entries as in candidate.item, got 2 entries"),
        ({"feedback.item": [1, 2, 50]}, None, "an id from 0 to 49, got 50 at entry 2"),
        ({"feedback.dwell": [5, 2, 3]}, None, "an id from 0 to 4, got 5 at entry 0"),
        ({"feedback.page": [1, 2]}, None, "3 entries as in feedback.item, got 2 entries"),
        ({"feedback.page": None}, None, "a list, got null"),
        ({"feedback.time": [1000, 1009, 999]}, None, "a time not before the request's 1000, got 999 at entry 2"),
        (
            {"feedback.time": [1009, 1008, 1001]},
            None,
            r"times of a candidate in ascending order \(oldest first\), at least 1009, got 1008 at entry 1",
        ),
        (
            {"candidate.feedback_events": [1, 0, 2]},
            "feedback.time",
            r"times of a candidate in ascending order \(oldest first\), at least 1009, got 1001 at entry 2",
        ),
        (
            {"feedback.time": [1000, 1009, 1_700_000_000_000]},
            None,
            r"a time in seconds since 1970, .*, got 1700000000000, which looks like milliseconds at entry 2",
        ),
        (
            {"candidate.convert.delay": [0, -1, 0]},
            None,
            "a delay from 0 to the horizon of 100 seconds where convert is 1, got -1 at entry 1",
        ),
        (
            {"candidate.convert.delay": [0, 0, 101]},
            None,
            "a delay from 0 to the horizon of 100 seconds where convert is 1, got 101 at entry 2",
        ),
        ({"candidate.convert.delay": [None, 0, 0]}, None, "a value for every entry, got null at entry 0"),
        ({"candidate.back.matured": [0, 2, 0]}, None, "a label of 0 or 1, got 2 at entry 1"),
    ],
)
def test_bad_value_of_what_comes_later(changes: dict[str, Any], field: str | None, expected: str) -> None:
    place = f"part.parquet, row group 7, row 2, field {field or next(iter(changes))}"
    with pytest.raises(DataError, match=f"^{place}: expected {expected}$"):
        validate(_wide(_later_rows(**changes)), later_schema(), file="part.parquet", row_group=7)


def test_feedback_in_another_unit_than_the_request() -> None:
    rows = [row | {"time": 1_700_000_000} for row in _later_rows()]
    expected = "field feedback.time: expected times in seconds, as in time, got at most 1009 beside request times"
    for row in rows:
        row["history.time"] = [1_699_999_000, 1_700_000_000]
    with pytest.raises(DataError, match=expected):
        validate(_wide(rows), later_schema(), file="f", row_group=0)


@pytest.mark.parametrize("name", ["candidate.feedback_events", "feedback.time", "candidate.convert.delay"])
def test_columns_of_what_comes_later_are_missed(name: str) -> None:
    with pytest.raises(DataError, match=f"f, row group 0, field {name}: expected a column of that name, got only user"):
        validate(_wide(_later_rows()).drop_columns([name]), later_schema(), file="f", row_group=0)


def test_feedback_without_times_and_ids() -> None:
    schema = later_schema({"side": {"dwell": 5}})
    validate(_wide(_later_rows(**{"feedback.time": [0, 0, 0]})), schema, file="f", row_group=0)
    with pytest.raises(DataError, match=r"expected 3 events in all, as in feedback\.dwell, got 4"):
        validate(_wide(_later_rows(**{"candidate.feedback_events": [2, 1, 1]})), schema, file="f", row_group=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.drop_columns(["history.kind"]),
            "field history.kind: expected a column of that name, got only user, time",
        ),
        (
            lambda t: t.append_column("user", t["user"]),
            "field user: expected a column of that name, got 2 of that name",
        ),
        (
            lambda t: t.set_column(0, "user", pa.array(["a"] * 4)),
            "row group 0, field user: expected integers, got string",
        ),
        (
            lambda t: t.set_column(2, "history.item", pa.array([1, 2, 3, 4])),
            "field history.item: expected a list of integers, got int64",
        ),
        (
            lambda t: t.set_column(2, "history.item", pa.array([[0.5]] * 4)),
            "field history.item: expected a list of integers, got list<item: double>",
        ),
    ],
)
def test_bad_columns(change: Callable[[pa.Table], pa.Table], message: str) -> None:
    table = change(_wide(_rows()))
    with pytest.raises(DataError, match=message):
        validate(table, make_schema(), file="f", row_group=0)


def _write(path: Path, schema: Schema | None = None) -> Path:
    pq.write_table(make_table(make_rows(30), schema), path, row_group_size=10)
    return path


def test_opens_and_reads_a_row_group(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet")
    with open_parquet(path, make_schema()) as file:
        table = read_row_group(file, make_schema(), path=path, row_group=2)
    assert table["user"].to_pylist() == list(range(20, 30))


def test_other_types_are_read_as_the_writers_own(tmp_path: Path) -> None:
    pq.write_table(_wide(_rows()), tmp_path / "a.parquet")
    with open_parquet(tmp_path / "a.parquet", make_schema()) as file:
        assert read_row_group(file, make_schema(), path=tmp_path, row_group=0).schema == make_table([]).schema


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: p.unlink(), "expected a Parquet file, got nothing there"),
        (lambda p: p.write_bytes(b""), r"expected a Parquet file, got an empty file \(0 bytes\)"),
        (lambda p: p.write_text("user,item\n1,2\n"), "expected a Parquet file .*, got b'user'"),
        (lambda p: p.write_bytes(b"PAR1"), "truncated at 4 bytes"),
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "truncated at .* bytes"),
        (lambda p: p.write_bytes(p.read_bytes()[:-8] + b"\xff\xff\xff\x7fPAR1"), "expected a readable Parquet footer"),
        (lambda p: (p.unlink(), p.mkdir()), "expected a Parquet file, got a folder"),
        (
            lambda p: (p.unlink(), p.symlink_to("gone")),
            "expected a Parquet file, got a link to gone, where nothing can be read",
        ),
        (lambda p: (p.unlink(), os.mkfifo(p)), "expected a Parquet file, got something that is no file"),
        (
            lambda p: pq.write_table(pa.table({"user": [1]}), p),
            "field time: expected a column of that name, got only user",
        ),
    ],
)
def test_bad_files(spoil: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet")
    spoil(path)
    with pytest.raises(DataError, match=rf"a\.parquet.*{message}"):
        open_parquet(path, make_schema())


def test_damaged_row_group(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.parquet")
    with open_parquet(path, make_schema()) as file:
        start = file.metadata.row_group(1).column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 400] = b"\xff" * 400
    path.write_bytes(bytes(content))
    with (
        open_parquet(path, make_schema()) as file,
        pytest.raises(DataError, match=r"a\.parquet, row group 1: expected readable column data, got: "),
    ):
        read_row_group(file, make_schema(), path=path, row_group=1)


def test_missing_numbers_become_nan() -> None:
    rows, schema = kind_rows(20), kinds_schema()
    table = validate(make_table(rows, schema), schema, file="f", row_group=0)
    assert any(value is None for row in rows for value in [row["of_price"], *row["history.price"]])
    prices = table["history.price"].combine_chunks().values
    assert prices.null_count == table["of_price"].null_count == 0
    np.testing.assert_array_equal(prices.to_numpy(), flat(rows, "history.price"))
    np.testing.assert_array_equal(table["of_price"].to_numpy(), flat(rows, "of_price"))
    again = validate(table, schema, file="f", row_group=0)
    assert again.schema == table.schema and again["candidate.stay"].type == pa.list_(pa.float32())


@pytest.mark.parametrize("value", [float("inf"), float("-inf"), 1e39])
def test_numbers_are_finite(value: float) -> None:
    schema, rows = kinds_schema(), kind_rows(3)
    expected = "a finite number of float32, or null or NaN where it is missing"
    events = {name: [1, 2, 3] for name in ("item", "kind", "action", "time")} | {"rank": [0.0] * 3, "stay": [None] * 3}
    rows[1] |= {f"history.{name}": of for name, of in events.items()} | {"history.price": [1.0, None, value]}
    with pytest.raises(DataError) as caught:
        validate(_wide(rows), schema, file="f", row_group=4)
    assert str(caught.value).startswith(f"f, row group 4, row 1, field history.price: expected {expected}, got ")
    assert str(caught.value).endswith(" at entry 2")
    lone = [row | {"of_stay": value if number == 2 else None} for number, row in enumerate(kind_rows(3))]
    with pytest.raises(DataError, match=f"row 2, field of_stay: expected {expected}, got {value}".replace("+", r"\+")):
        validate(_wide(lone), schema, file="f", row_group=0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("history.price", None, "a list, got null"),
        ("candidate.stay", [1.0] * 99, "entries as in candidate.item, got 99 entries"),
    ],
)
def test_lists_of_numbers_are_as_long_as_the_others(name: str, value: Any, expected: str) -> None:
    rows, schema = kind_rows(3), kinds_schema()
    rows[1][name] = value
    with pytest.raises(DataError, match=f"row 1, field {name}: expected .*{expected}"):
        validate(make_table(rows, schema), schema, file="f", row_group=0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("tags", None, "a list, got null"),
        ("tags", [3, 7], "an id from 0 to 6, got 7 at entry 1"),
        ("tags", [None], "a value for every entry, got null at entry 0"),
        ("candidate.related", None, "a list, got null"),
        ("candidate.related", [[1], None], "a list for every candidate, got null at candidate 1"),
        ("candidate.related", [[1], [3, 50]], "an id from 0 to 49, got 50 at entry 1 of candidate 1"),
        ("candidate.related", [[]] * 99, "entries as in candidate.item, got 99 entries"),
    ],
)
def test_lists_of_ids(name: str, value: Any, expected: str) -> None:
    rows, schema = kind_rows(3), kinds_schema()
    validate(make_table(rows, schema), schema, file="f", row_group=0)
    rows[1][name] = value
    with pytest.raises(DataError, match=f"f, row group 2, row 1, field {name}: expected .*{expected}"):
        validate(make_table(rows, schema), schema, file="f", row_group=2)


def test_labels_that_are_not_read_may_be_anything_or_not_there() -> None:
    schema = later_schema().without_labels()
    wrong = [row | {"candidate.click": [7] * len(row["candidate.item"])} for row in later_rows(4)]
    table = pa.Table.from_pylist(wrong).drop_columns(["candidate.buy", "candidate.back.matured"])
    assert validate(table, schema, file="f", row_group=0).num_rows == 4
