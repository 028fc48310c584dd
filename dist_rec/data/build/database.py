"""DuckDB as the builder uses it: one connection with a limit of memory, and its errors as one sentence."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from dist_rec.data.errors import DataError

CSV_ERROR = re.compile(r"CSV Error on Line: (\d+)\n")


class Database:
    """A database in a folder of its own, which the caller makes and removes. What does not fit into `memory` goes
    there, too.

    Args:
        folder: for the database file and what is spilled.
        memory: for all that DuckDB holds, such as 2GB.
        threads: None: one for every core.
    """

    def __init__(self, folder: Path, memory: str, threads: int | None) -> None:
        self.folder = folder
        self._connection = duckdb.connect(str(folder / "build.duckdb"))
        settings: dict[str, str | int | bool] = {
            "memory_limit": memory,
            "temp_directory": str(folder / "spilled"),
            "preserve_insertion_order": True,  # the order of a file decides between events of the same time
            "TimeZone": "UTC",
            "enable_progress_bar": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
        settings |= {} if threads is None else {"threads": threads}
        for name, value in settings.items():
            try:
                self._connection.execute(f"SET {name} = {literal(value) if isinstance(value, str) else value}")
            except duckdb.Error as error:
                raise DataError(f"{name}={value}: {first_line(error)}") from error

    def run(self, sql: str, what: str) -> None:
        """Raises DataError that starts with `what`."""
        with self._errors(what):
            self._connection.execute(sql)

    def rows(self, sql: str, what: str) -> list[tuple]:
        with self._errors(what):
            return self._connection.execute(sql).fetchall()

    def one(self, sql: str, what: str) -> tuple:
        """The first row."""
        return self.rows(sql, what)[0]

    def stream(self, sql: str, what: str, rows: int) -> Iterator[pa.RecordBatch]:
        """Up to `rows` rows at a time."""
        # A connection of its own: a statement on another one would end the result that is still read.
        with self._errors(what):
            cursor = self._connection.cursor()
            cursor.execute("SET TimeZone = 'UTC'")
            reader = cursor.execute(sql).to_arrow_reader(rows)
        while True:
            with self._errors(what):
                try:
                    batch = reader.read_next_batch()
                except StopIteration:
                    return
            yield batch

    def insert(self, table: str, rows: pa.Table, what: str) -> None:
        with self._errors(what):
            self._connection.register("rows to insert", rows)
            self._connection.execute(f'INSERT INTO {table} SELECT * FROM "rows to insert"')
            self._connection.unregister("rows to insert")

    def columns(self, relation: str, what: str) -> dict[str, str]:
        """Name -> type of DuckDB."""
        return {row[0]: row[1] for row in self.rows(f"DESCRIBE SELECT * FROM {relation}", what)}

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except duckdb.Error as error:
            raise DataError(f"{what}: {first_line(error)}") from error


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def order_by(columns: int) -> str:
    """The order of rows `o` of one moment: by their columns `order <place>`, then as they were read."""
    return ", ".join([*(f'o."order {place}" NULLS FIRST' for place in range(columns)), "o.n"])


def literal(text: str) -> str:
    """A text in SQL."""
    return "'" + text.replace("'", "''") + "'"


def first_line(error: BaseException) -> str:
    """What DuckDB says without its advice, options and stack."""
    text = str(error).strip()
    if "Out of Memory" in text:
        return "the limit of memory is too low for this; say --memory, such as --memory 4GB"
    if (found := CSV_ERROR.search(text)) is not None:
        file, said = re.search(r"\n\s*file = (.*)", text), text[found.end() :].strip()
        said = re.split(r"\nPossible |\n\n  file = ", said)[0].rstrip()
        line, _, reason = said.removeprefix("Original Line: ").rpartition("\n")
        place = f"{file[1]}, line {found[1]}" if file else f"line {found[1]}"
        got = f", got {line[:200]!r}" if line else ""
        return f"{place}: {' '.join(reason.split()).rstrip('.')}{got}"
    return " ".join(text.split("\n")[0].split()) or type(error).__name__
