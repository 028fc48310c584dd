"""The rows of one source that a build reads, in two steps: as they are, and as what their columns mean.

Between the two, all columns of a table of ids have been looked at: they are whole numbers, or text where one is text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from dist_rec.common.strict import nearest
from dist_rec.data.build.database import Database, literal, quoted
from dist_rec.data.build.fields import TimeConfig
from dist_rec.data.build.sources import FILE, ROW, Source, check_readable
from dist_rec.data.build.values import (
    IdType,
    TimeFacts,
    Value,
    elements,
    folder_value,
    id_value,
    is_fraction,
    is_integer,
    label_value,
    list_value,
    may_be_id,
    not_an_integer,
    number_value,
    text_value,
    time_facts_sql,
    time_value,
    vector_value,
)
from dist_rec.data.errors import DataError

Kind = Literal["id", "time", "label", "side", "number", "list", "vector", "folder", "raw"]
ORDINAL = "place among all rows"


@dataclass(frozen=True)
class Asked:
    """A column that is read: `name` here, `column` of the source, and the key of the build file that asks for it.

    - `table`: of an id, whose ids these are; from 0 to `rows` - 1, if that is given
    - `values`: of few, the only ones that are right
    - `split`: of a list in a text; `dim`: of a vector
    - `needed`: whether a row without it is a bad row
    """

    name: str
    column: str
    key: str
    kind: Kind
    table: str = ""
    rows: int | None = None
    time: TimeConfig | None = None
    at_least: float | None = None
    values: tuple[str, ...] | None = None
    split: str | None = None
    dim: int = 0
    needed: bool = False


@dataclass(frozen=True)
class Fault:
    """A condition under which a row is bad, and what was expected instead."""

    asked: Asked
    sql: str
    expected: str
    reason: str


@dataclass
class Rows:
    """Rows of `source` with these columns, in tables of the database: first `raw`, then `name`.

    `key`: of the build file. `dropped` reason -> rows, once they are known; `count` those that are left."""

    name: str
    source: Source
    asked: Sequence[Asked]
    key: str
    where: str | None = None
    facts: dict[str, TimeFacts] = field(default_factory=dict)
    dropped: dict[str, int] = field(default_factory=dict)
    count: int = 0

    @property
    def table(self) -> str:
        return quoted(self.name)

    @property
    def raw(self) -> str:
        return quoted(f"{self.name}, raw")


def read_raw(database: Database, rows: Rows) -> None:
    """Copies the columns that are asked for.

    Raises DataError for a column that the source does not have, or whose type cannot be what it is asked for, and for
    what cannot be read."""
    source = rows.source
    for asked in rows.asked:
        kind = source.columns.get(asked.column)
        if kind is None:
            raise DataError(
                f"{asked.key}: source '{source.name}' has no column '{asked.column}'; "
                f"{nearest(asked.column, list(source.columns))}"
            )
        if asked.kind == "id" and not may_be_id(kind):
            raise DataError(
                f"{asked.key}: expected ids, whole numbers or text, in column '{asked.column}' of source "
                f"'{source.name}', got {kind}"
            )
        if asked.kind in ("list", "vector") and asked.split is None and not kind.endswith("]"):
            raise DataError(
                f"{asked.key}: expected lists in column '{asked.column}' of source '{source.name}', got {kind}"
                + ("; say split for a text" if asked.kind == "list" else "")
            )
    names = list(dict.fromkeys(asked.column for asked in rows.asked))
    columns = [quoted(name) for name in names]
    columns += [quoted(FILE), *([quoted(ROW)] if source.rows_known else [])]
    condition = f" WHERE {rows.where}" if rows.where else ""
    # A query has no order of its own; with one, the same logs give the same bytes.
    ordered = f"(SELECT * FROM {source.with_places} ORDER BY ALL)" if source.is_query else source.with_places
    every = f"SELECT row_number() OVER () AS {quoted(ORDINAL)}, * FROM {ordered}"
    chosen = f"SELECT {', '.join([quoted(ORDINAL), *columns])} FROM ({every}){condition}"
    what = f"{rows.key}.where" if rows.where else f"sources.{source.name}"
    try:
        database.run(f"CREATE TABLE {rows.raw} AS {chosen}", what)
    except DataError:
        check_readable(source, names)
        raise


def text_tables(database: Database, every: Iterable[Rows]) -> set[str]:
    """The tables of ids that are text; learns the units of times on the way."""
    found: set[str] = set()
    for rows in every:
        kinds = rows.source.columns
        ids = [asked for asked in rows.asked if asked.kind in ("id", "list")]
        times = [asked for asked in rows.asked if asked.kind == "time"]
        counts = [f"count(*) FILTER ({_text_sql(of, kinds[of.column])})" for of in ids]
        units = [time_facts_sql(quoted(of.column), kinds[of.column]) for of in times]
        told = database.one(f"SELECT {', '.join([*counts, *units, '0'])} FROM {rows.raw}", rows.name)
        # A fraction that is not whole is a bad row, not a text.
        found |= {
            of.table
            for of, count in zip(ids, told)
            if count and not (is_integer(kinds[of.column]) or is_fraction(kinds[of.column]))
        }
        found |= {of.table for of in ids if kinds[of.column] == "UUID"}
        for place, of in enumerate(times):
            no_numbers, largest = told[len(ids) + 2 * place : len(ids) + 2 * place + 2]
            total = database.one(f"SELECT count({quoted(of.column)}) FROM {rows.raw}", rows.name)[0]
            rows.facts[of.name] = TimeFacts(numbers=no_numbers * 2 <= total, largest=float(largest))
    return found


def read_values(database: Database, rows: Rows, text: set[str], *, drop: bool) -> None:
    """Makes the table of `rows` of what was read raw. Bad rows are counted by reason and left out, or, unless `drop`,
    the first of them raises DataError."""
    values = {asked.name: _value(rows, asked, text) for asked in rows.asked}
    faults = [fault for asked in rows.asked for fault in _faults(asked, values[asked.name])]
    cases = " ".join(f"WHEN {fault.sql} THEN {number}" for number, fault in enumerate(faults, 1))
    number = f"CASE {cases} ELSE 0 END" if faults else "0"
    columns = ", ".join(f"{of.sql} AS {quoted(name)}" for name, of in values.items())
    database.run(
        f"CREATE TABLE {rows.table} AS SELECT * EXCLUDE (fault) FROM (SELECT {quoted(ORDINAL)} AS n, {columns}, "
        f"{number} AS fault FROM {rows.raw}) WHERE fault = 0",
        rows.name,
    )
    rows.count, total = (database.one(f"SELECT count(*) FROM {of}", rows.name)[0] for of in (rows.table, rows.raw))
    if rows.count < total:
        found = database.rows(
            f"SELECT {number} AS fault, count(*), min({quoted(ORDINAL)}) FROM {rows.raw} GROUP BY 1 HAVING fault > 0 "
            "ORDER BY 3",
            rows.name,
        )
        if not drop:
            raise DataError(_sentence(database, rows, found[0][2], faults[found[0][0] - 1]))
        rows.dropped = {faults[number - 1].reason: count for number, count, _ in found}
    database.run(f"DROP TABLE {rows.raw}", rows.name)


def drop_duplicates(database: Database, rows: Rows) -> int:
    """Keeps the first of rows that are equal in every column that is read; returns how many went."""
    columns = ", ".join(quoted(asked.name) for asked in rows.asked)
    database.run(
        f"DELETE FROM {rows.table} WHERE n NOT IN (SELECT min(n) FROM {rows.table} GROUP BY {columns})", rows.name
    )
    before, rows.count = rows.count, database.one(f"SELECT count(*) FROM {rows.table}", rows.name)[0]
    return before - rows.count


def _text_sql(asked: Asked, kind: str) -> str:
    """Whether the ids of a row make their table one of text."""
    if asked.kind == "id":
        return not_an_integer(quoted(asked.column), kind)
    whole, element = elements(quoted(asked.column), kind, asked.split)
    return f"len(list_filter({whole}, e -> {not_an_integer('e', element)})) > 0"


def _faults(asked: Asked, value: Value) -> list[Fault]:
    found = (
        []
        if value.bad == "false"
        else [Fault(asked, value.bad, value.expected, f"{asked.column}: not {value.expected}")]
    )
    if asked.needed:
        found.append(Fault(asked, f"({value.sql}) IS NULL", value.expected, f"{asked.column}: missing"))
    return found


def _value(rows: Rows, asked: Asked, text: set[str]) -> Value:
    of, kind = quoted(asked.column), rows.source.columns[asked.column]
    if asked.kind == "id":
        type_: IdType = "text" if asked.table in text else "integer"
        value = id_value(of, kind, type_)
        if asked.rows is None:
            return value
        expected = f"an id from 0 to {asked.rows - 1}"
        if type_ == "text":
            return Value(value.sql, f"{value.sql} IS NOT NULL", f"{expected}, and no text in any column of its table")
        return Value(value.sql, f"{value.bad} OR {value.sql} NOT BETWEEN 0 AND {asked.rows - 1}", expected)
    if asked.kind == "time":
        assert asked.time is not None, "made with it"
        return time_value(of, kind, asked.time, rows.facts[asked.name])
    if asked.kind == "label":
        return label_value(of, kind, asked.at_least)
    if asked.kind == "number":
        return number_value(of)
    if asked.kind == "folder":
        return folder_value(of, kind)
    if asked.kind == "vector":
        return vector_value(of, asked.dim)
    if asked.kind == "list":
        return list_value(of, kind, asked.split, "text" if asked.table in text else "integer")
    if asked.kind == "raw":
        return Value(of, "false", "a value")
    value = text_value(of, kind)
    if asked.values is None:
        return value
    known = ", ".join(map(literal, asked.values))
    return Value(value.sql, f"{value.sql} IS NULL OR {value.sql} NOT IN ({known})", f"one of {', '.join(asked.values)}")


def _sentence(database: Database, rows: Rows, place: int, fault: "Fault") -> str:
    """What is wrong with the raw row of this place, and where it was read."""
    source, asked = rows.source, fault.asked
    at = [quoted(FILE), f"{quoted(asked.column)}::VARCHAR", *([quoted(ROW)] if source.rows_known else [])]
    file, value, *of_file = database.one(
        f"SELECT {', '.join(at)} FROM {rows.raw} WHERE {quoted(ORDINAL)} = {place}", rows.name
    )
    if source.rows_known:
        row = 1 + of_file[0]
    else:
        row = place - _first_of(database, source, file) + source.first_row
    got = f", got {value!r}" if value is not None else ", got nothing"
    what = "record" if source.first_row == 2 else "row"  # a record of text may span lines
    return (
        f"{file}, {what} {row}, column {asked.column} ({asked.key}): expected {fault.expected}{got}; say "
        "bad_rows: drop to build without such rows"
    )


def _first_of(database: Database, source: Source, file: str) -> int:
    """The place among all rows of the first row of a file."""
    places = f"SELECT row_number() OVER () AS place, {quoted(FILE)} AS file FROM {source.with_places}"
    return database.one(f"SELECT min(place) FROM ({places}) WHERE file = {literal(file)}", source.name)[0]
