from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data.build.database import Database, literal
from dist_rec.data.build.fields import TimeConfig
from dist_rec.data.build.values import (
    TimeFacts,
    Value,
    folder_value,
    id_value,
    label_value,
    not_an_integer,
    text_value,
    time_facts_sql,
    time_unit,
    time_value,
)


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return Database(tmp_path_factory.mktemp("values"), "200MB", 1)


def evaluated(database: Database, value: Value, of: str) -> tuple[Any, bool]:
    """Value and badness of one column x."""
    got, bad = database.one(f"SELECT {value.sql}, {value.bad} FROM (SELECT {of} AS x)", "evaluated")
    return got, bool(bad)


@pytest.mark.parametrize(
    ("sql", "kind", "type_", "wanted"),
    [
        ("5::INT", "INTEGER", "integer", (5, False)),
        ("'-7'", "VARCHAR", "integer", (-7, False)),
        ("18446744073709551615::UBIGINT", "UBIGINT", "integer", (-1, False)),
        ("9223372036854775808::UBIGINT", "UBIGINT", "integer", (-(2**63), False)),
        ("'18446744073709551615'", "VARCHAR", "integer", (-1, False)),
        ("3.0::DOUBLE", "DOUBLE", "integer", (3, False)),
        ("3.5::DOUBLE", "DOUBLE", "integer", (None, True)),
        ("'nan'::DOUBLE", "DOUBLE", "integer", (None, False)),
        ("'inf'::DOUBLE", "DOUBLE", "integer", (None, True)),
        ("NULL::INT", "INTEGER", "integer", (None, False)),
        ("5::INT", "INTEGER", "text", ("5", False)),
        ("3.0::FLOAT", "FLOAT", "text", ("3", False)),
        ("'007'", "VARCHAR", "text", ("007", False)),
        ("'x'::ENUM('x')", "ENUM('x')", "text", ("x", False)),
        ("12345678901234571::DECIMAL(20,0)", "DECIMAL(20,0)", "integer", (12345678901234571, False)),
        ("1.5::DECIMAL(4,1)", "DECIMAL(4,1)", "integer", (None, True)),
    ],
)
def test_ids(database: Database, sql: str, kind: str, type_: Any, wanted: tuple[Any, bool]) -> None:
    assert evaluated(database, id_value("x", kind, type_), sql) == wanted


@given(st.text(alphabet="0123456789-+ .eE", max_size=6))
def test_a_text_is_a_whole_number_only_as_python_would_write_it(database: Database, text: str) -> None:
    try:
        wanted = text == str(int(text))
    except ValueError:
        wanted = False
    sql = f"SELECT {not_an_integer('x', 'VARCHAR')} FROM (SELECT {literal(text)} AS x)"
    assert database.one(sql, "tested")[0] is not wanted


@pytest.mark.parametrize(
    ("sql", "kind", "least", "wanted"),
    [
        ("true", "BOOLEAN", None, (1, False)),
        ("'0'", "VARCHAR", None, (0, False)),
        ("'False'", "VARCHAR", None, (0, False)),
        ("'1.0'", "VARCHAR", None, (1, False)),
        ("2", "INTEGER", None, (None, True)),
        ("'often'", "VARCHAR", None, (None, True)),
        ("NULL::INT", "INTEGER", None, (None, False)),
        ("4", "INTEGER", 4, (1, False)),
        ("3.9", "DECIMAL(2,1)", 4, (0, False)),
        ("'nan'::DOUBLE", "DOUBLE", 4, (None, True)),
        ("'x'", "VARCHAR", 4, (None, True)),
    ],
)
def test_labels(database: Database, sql: str, kind: str, least: float | None, wanted: tuple[Any, bool]) -> None:
    assert evaluated(database, label_value("x", kind, least), sql) == wanted


@pytest.mark.parametrize(
    ("sql", "kind", "wanted"),
    [
        ("2.0::DOUBLE", "DOUBLE", "2"),
        ("2.5::DOUBLE", "DOUBLE", "2.5"),
        ("'a'", "VARCHAR", "a"),
        ("true", "BOOLEAN", "true"),
    ],
)
def test_values_of_few_are_texts(database: Database, sql: str, kind: str, wanted: str) -> None:
    assert evaluated(database, text_value("x", kind), sql) == (wanted, False)
    assert evaluated(database, text_value("x", kind), f"NULL::{kind}")[0] is None


HOUR, MOMENT = 3_600_000_000, 1_709_994_600_000_000  # 2024-03-09 14:30:00 UTC


@pytest.mark.parametrize(
    ("sql", "kind", "zone", "wanted"),
    [
        ("TIMESTAMP '2024-03-09 14:30:00'", "TIMESTAMP", "UTC", MOMENT),
        ("TIMESTAMP_NS '2024-03-09 14:30:00.000000999'", "TIMESTAMP_NS", "UTC", MOMENT),
        ("TIMESTAMP '2024-03-09 14:30:00'", "TIMESTAMP", "America/New_York", MOMENT + 5 * HOUR),
        # A day later New York's clocks are one hour ahead; of the hour that a clock shows twice it is the second.
        ("TIMESTAMP '2024-03-10 14:30:00'", "TIMESTAMP", "America/New_York", MOMENT + 28 * HOUR),
        ("TIMESTAMP '2024-11-03 01:30:00'", "TIMESTAMP", "America/New_York", 1_730_615_400_000_000),
        ("TIMESTAMPTZ '2024-03-09 14:30:00+02'", "TIMESTAMP WITH TIME ZONE", "America/New_York", MOMENT - 2 * HOUR),
        ("DATE '1969-12-31'", "DATE", "UTC", -24 * HOUR),
        ("'2024-03-09T14:30:00Z'", "VARCHAR", "America/New_York", MOMENT),
        ("'2024-03-09 14:30:00+02:00'", "VARCHAR", "America/New_York", MOMENT - 2 * HOUR),
        ("'2024-03-09 14:30:00'", "VARCHAR", "America/New_York", MOMENT + 5 * HOUR),
        ("'2024-03-09'", "VARCHAR", "America/New_York", 1_709_960_400_000_000),
    ],
)
def test_moments(database: Database, sql: str, kind: str, zone: str, wanted: int) -> None:
    value = time_value("x", kind, TimeConfig(column="x", zone=zone), TimeFacts(numbers=False, largest=0))
    assert evaluated(database, value, sql) == (wanted, False)


@pytest.mark.parametrize("sql", ["'soon'", "'infinity'", "'2024-13-01'"])
def test_texts_that_are_no_moment(database: Database, sql: str) -> None:
    value = time_value("x", "VARCHAR", TimeConfig(column="x"), TimeFacts(numbers=False, largest=0))
    assert evaluated(database, value, sql) == (None, True)


@given(st.integers(-9 * 10**9, 9 * 10**9), st.sampled_from(["s", "ms", "us", "ns"]))
def test_whole_numbers_of_every_unit_are_exact(database: Database, seconds: int, unit: Any) -> None:
    """Up to the year 2255, after which nanoseconds are no 64 bits any more."""
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    number = seconds * scale + scale // 3
    value = time_value("x", "BIGINT", TimeConfig(column="x", unit=unit), TimeFacts(numbers=True, largest=abs(number)))
    assert evaluated(database, value, f"{number}::BIGINT") == (number * 10**6 // scale, False)


def test_the_unit_follows_from_the_largest() -> None:
    assert [time_unit(x) for x in (0, 99, 1.7e9, 1.7e12, 1.7e15, 1.7e18)] == ["s", "s", "s", "ms", "us", "ns"]


@pytest.mark.parametrize(
    ("number", "bad"),
    [("1700000000123", False), ("-5", False), ("1700000000", True), ("'inf'::DOUBLE", True), ("1e17", True)],
)
def test_seconds_among_milliseconds_are_bad(database: Database, number: str, bad: bool) -> None:
    kind = "DOUBLE" if "DOUBLE" in number or "e" in number else "BIGINT"
    value = time_value("x", kind, TimeConfig(column="x"), TimeFacts(numbers=True, largest=1.7e12))
    assert evaluated(database, value, number)[1] is bad
    assert "none in seconds" in value.expected


def test_facts_of_times(database: Database) -> None:
    sql = time_facts_sql("x", "VARCHAR")
    assert database.one(f"SELECT {sql} FROM (VALUES ('5'), ('-7'), ('soon'), (NULL), ('inf')) v(x)", "facts") == (
        1,
        7.0,
    )
    assert database.one(f"SELECT {time_facts_sql('x', 'DATE')} FROM (SELECT DATE '2024-01-01' AS x)", "facts") == (1, 0)


def test_what_is_not_there_is_not_bad(database: Database) -> None:
    for kind in ("VARCHAR", "BIGINT", "DOUBLE"):
        value = time_value("x", kind, TimeConfig(column="x"), TimeFacts(numbers=True, largest=5))
        assert evaluated(database, value, f"NULL::{kind}") == (None, False)


@pytest.mark.parametrize(
    ("number", "bad"), [("1700000000", True), ("1700000000000", True), ("1700000000000000", False)]
)
def test_coarser_units_among_microseconds_are_bad(database: Database, number: str, bad: bool) -> None:
    value = time_value("x", "BIGINT", TimeConfig(column="x"), TimeFacts(numbers=True, largest=1.7e15))
    assert evaluated(database, value, number)[1] is bad
    assert "none in seconds or milliseconds" in value.expected


@pytest.mark.parametrize(
    ("text", "fine"),
    [
        ("fold1", True),
        ("2024-05-01", True),
        ("date=1", True),
        ("_x", False),
        (".x", False),
        ("a/b", False),
        ("", False),
    ],
)
def test_folders(database: Database, text: str, fine: bool) -> None:
    assert database.one(f"SELECT {folder_value(literal(text), 'VARCHAR').bad}", "here") == (not fine,)
