"""What a column must hold, as SQL: its value, and whether a row has another one.

Ids are whole numbers, or text where some column of their table is text; times are microseconds since 1970."""

from dataclasses import dataclass
from typing import Literal

from dist_rec.data.build.database import literal
from dist_rec.data.build.fields import TimeConfig
from dist_rec.data.build.split_config import FOLDER, FOLDER_EXPECTED, NO_FOLDERS

IdType = Literal["integer", "text"]
INTEGERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "HUGEINT")
FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
UNITS = {"s": 1_000_000, "ms": 1000, "us": 1, "ns": 0.001}
MOST_SECONDS = 10**11  # seconds below it are before the year 5138, milliseconds above it after 1973
OFFSET = r"\d\d:\d\d(:\d\d([.,]\d+)?)?\s*([zZ]|[+-]\d\d(:?\d\d)?)$"  # behind a time: a date alone ends in -09


@dataclass(frozen=True)
class Value:
    """`sql` gives NULL where the value is missing, and where it is `bad`, a condition. `expected` says what is not."""

    sql: str
    bad: str
    expected: str


def is_integer(kind: str) -> bool:
    return kind in INTEGERS


def is_fraction(kind: str) -> bool:
    return kind.startswith(FRACTIONS)


def is_text(kind: str) -> bool:
    return kind == "VARCHAR" or kind.startswith("ENUM")


def may_be_id(kind: str) -> bool:
    return is_integer(kind) or is_fraction(kind) or is_text(kind) or kind == "UUID"


def not_an_integer(of: str, kind: str) -> str:
    """Whether a value could not stay itself as a whole number of 64 bits: a condition over the column `of`."""
    if is_integer(kind):
        return f"{of} NOT BETWEEN -9223372036854775808 AND 18446744073709551615" if kind == "HUGEINT" else "false"
    if is_fraction(kind):
        return f"NOT isnan({of}::DOUBLE) AND ({_whole(of, kind)}) IS NULL"
    return f"{of} IS NOT NULL AND coalesce(try_cast({of} AS HUGEINT)::VARCHAR != {of}::VARCHAR, true)"


def id_value(of: str, kind: str, type_: IdType) -> Value:
    """An id; whole numbers wrap into 64 bits with a sign. NaN of a fraction is a missing one."""
    whole = f"try_cast({of} AS HUGEINT)" if not is_fraction(kind) else f"({_whole(of, kind)})"
    if type_ == "integer":
        wrapped = f"(CASE WHEN {whole} >= 9223372036854775808 THEN {whole} - 18446744073709551616 ELSE {whole} END)"
        return Value(f"try_cast({wrapped} AS BIGINT)", not_an_integer(of, kind), "an id, a whole number of 64 bits")
    if is_fraction(kind):
        return Value(f"{whole}::VARCHAR", not_an_integer(of, kind), "an id, a whole number or text")
    return Value(f"{of}::VARCHAR", "false", "an id")


def text_value(of: str, kind: str) -> Value:
    """A value of few, as text; a whole fraction without its point."""
    if is_fraction(kind):
        return Value(f"coalesce(({_whole(of, kind)})::VARCHAR, nullif({of}::VARCHAR, 'nan'))", "false", "a value")
    return Value(f"{of}::VARCHAR", "false", "a value")


def folder_value(of: str, kind: str) -> Value:
    """A name of a folder for requests, as text."""
    value = text_value(of, kind).sql
    no_folders = ", ".join(map(literal, NO_FOLDERS))
    fine = f"(regexp_full_match({value}, {literal(FOLDER)}) AND lower({value}) NOT IN ({no_folders}))"
    return Value(value, f"{value} IS NOT NULL AND NOT {fine}", FOLDER_EXPECTED)


def number_value(of: str) -> Value:
    """A FLOAT; NaN is a missing one."""
    number = f"try_cast({of} AS DOUBLE)"
    fine = f"({number} IS NOT NULL AND (isnan({number}) OR abs({number}) < 3.4e38))"
    value = f"CASE WHEN {fine} AND NOT isnan({number}) THEN {number}::FLOAT END"
    return Value(value, f"{of} IS NOT NULL AND NOT {fine}", "a number, finite in 32 bits")


def vector_value(of: str, dim: int) -> Value:
    """FLOAT[dim], of numbers that are finite in 16 bits."""
    fine = f"(len({of}) = {dim} AND len(list_filter({of}, e -> e IS NULL OR NOT abs(e::DOUBLE) < 65504)) = 0)"
    return Value(
        f"CASE WHEN {fine} THEN {of}::FLOAT[] END",
        f"{of} IS NOT NULL AND NOT {fine}",
        f"{dim} numbers, each finite in 16 bits",
    )


def elements(of: str, kind: str, split: str | None) -> tuple[str, str]:
    """A list in SQL, and the type of its elements."""
    if split is not None:
        parts = f"string_split({of}::VARCHAR, {literal(split)})"
        return f"CASE WHEN {of} IS NOT NULL THEN list_filter({parts}, e -> e != '') END", "VARCHAR"
    return of, kind.partition("[")[0]


def list_value(of: str, kind: str, split: str | None, type_: IdType) -> Value:
    """Ids of a list; nulls in it are passed over."""
    whole, element = elements(of, kind, split)
    one = id_value("e", element, type_)
    kept = f"list_filter({whole}, e -> e IS NOT NULL)"
    bad = "false" if one.bad == "false" else f"len(list_filter({kept}, e -> {one.bad})) > 0"
    return Value(f"list_transform({kept}, e -> {one.sql})", bad, f"a list, each entry {one.expected}")


def label_value(of: str, kind: str, at_least: float | None) -> Value:
    """0 or 1 as UTINYINT."""
    number = f"try_cast({of} AS DOUBLE)"
    if at_least is not None:
        fine = f"({number} IS NOT NULL AND isfinite({number}))"
        return Value(
            f"CASE WHEN {fine} THEN ({number} >= {at_least!r})::UTINYINT END",
            f"{of} IS NOT NULL AND NOT {fine}",
            "a number",
        )
    if kind == "BOOLEAN":
        return Value(f"{of}::UTINYINT", "false", "a label")
    flag = f"try_cast({of} AS BOOLEAN)" if is_text(kind) else "NULL"
    value = f"coalesce(CASE WHEN {number} IN (0, 1) THEN {number}::UTINYINT END, {flag}::UTINYINT)"
    return Value(value, f"{of} IS NOT NULL AND {value} IS NULL", "0 or 1, true or false")


@dataclass(frozen=True)
class TimeFacts:
    """Of a column of times: whether text is numbers, and the largest of them without its sign."""

    numbers: bool
    largest: float


def time_facts_sql(of: str, kind: str) -> str:
    """Two values: rows that are no numbers, and the largest number."""
    number = f"try_cast({of} AS DOUBLE)"
    if not (is_text(kind) or is_integer(kind) or is_fraction(kind)):
        return "count(*), 0.0"
    finite = f"CASE WHEN isfinite({number}) THEN abs({number}) END"
    return f"count(*) FILTER ({of} IS NOT NULL AND {number} IS NULL), coalesce(max({finite}), 0.0)"


def time_value(of: str, kind: str, config: TimeConfig, facts: TimeFacts) -> Value:
    """Microseconds since 1970, BIGINT. Fractions of one are cut off, towards the past."""
    if facts.numbers:
        return _numeric_time(of, config, facts)
    # A text with an offset keeps it as a TIMESTAMPTZ alone; without one it is UTC there, as the connection says.
    local = f"epoch_us(try_cast({of} AS TIMESTAMP) AT TIME ZONE {literal(config.zone)})"
    absolute, moment = f"epoch_us(try_cast({of} AS TIMESTAMPTZ))", f"try_cast({of} AS TIMESTAMPTZ)"
    if config.zone == "UTC" or kind == "TIMESTAMP WITH TIME ZONE":
        value = absolute
    elif is_text(kind):
        value = f"CASE WHEN regexp_matches({of}, {literal(OFFSET)}) THEN {absolute} ELSE {local} END"
    else:
        value = local
    fine = f"CASE WHEN isfinite({moment}) THEN {value} END"
    expected = "a date and time" + (", as most rows have, or only numbers in all of them" if is_text(kind) else "")
    return Value(fine, f"{of} IS NOT NULL AND ({fine}) IS NULL", expected)


def _numeric_time(of: str, config: TimeConfig, facts: TimeFacts) -> Value:
    unit = config.unit if config.unit != "auto" else time_unit(facts.largest)
    number = f"try_cast({of} AS DOUBLE)"
    most = MOST_SECONDS * UNITS["s"] / UNITS[unit]
    # Whole numbers stay whole: a double of microseconds would round them.
    whole = f"try_cast({of} AS HUGEINT)"
    exact = {"s": f"{whole} * 1000000", "ms": f"{whole} * 1000", "us": whole, "ns": f"{whole} // 1000"}[unit]
    exact = exact if unit != "ns" else f"({whole} - ((({whole} % 1000) + 1000) % 1000)) // 1000"
    rough = f"floor({number} * {UNITS[unit]!r})::HUGEINT"
    fine = f"isfinite({number}) AND abs({number}) < {most:.0f}"
    coarser = list(UNITS)[: list(UNITS).index(unit)] if config.unit == "auto" else []
    for other in coarser:
        # From 1973 on, a time in a coarser unit cannot be taken for one in this unit before 1973.
        low, high = (MOST_SECONDS * UNITS["s"] / UNITS[other] / scale for scale in (1e3, 1))
        fine += f" AND NOT abs({number}) BETWEEN {low:.0f} AND {high:.0f}"
    fine = f"({number} IS NOT NULL AND {fine})"
    value = f"CASE WHEN {fine} THEN CASE WHEN {number} = {whole} THEN {exact} ELSE {rough} END::BIGINT END"
    names = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
    expected = f"a time in {names[unit]} since 1970"
    if coarser:
        expected += f", as the largest of them, and none in {' or '.join(names[other] for other in coarser)}; say unit"
    return Value(value, f"{of} IS NOT NULL AND NOT {fine}", expected)


def time_unit(largest: float) -> Literal["s", "ms", "us", "ns"]:
    """The unit that puts a number of this size between 1970 and 5138, the largest of those that do."""
    for unit in ("s", "ms", "us"):
        if largest < MOST_SECONDS * UNITS["s"] / UNITS[unit]:
            return unit
    return "ns"


def _whole(of: str, kind: str) -> str:
    """A fraction that is whole, and exact, as a whole number."""
    if kind.startswith("DECIMAL"):
        return f"CASE WHEN {of} = floor({of}) THEN {of}::HUGEINT END"
    number = f"{of}::DOUBLE"
    exact = f"isfinite({number}) AND {number} = floor({number}) AND abs({number}) < {2**53}"
    return f"CASE WHEN {exact} THEN {number}::HUGEINT END"
