"""The sources of a build file as relations of the database.

A source is a view of its name. `<name> and places` also has where each row came from: `FILE` and, of Parquet, `ROW`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.data.build.config import SourceConfig
from dist_rec.data.build.database import Database, literal, quoted
from dist_rec.data.errors import READ_ERRORS, DataError, one_line, reading
from dist_rec.data.files import is_hidden

FILE, ROW = "file of the row", "row of the file"
PARQUET, TEXT, PACKED = (".parquet", ".parq", ".pq"), (".csv", ".tsv", ".txt"), (".gz", ".zst")
DELIMITERS = ",\t;|"
HEADER_BYTES = 1 << 20


@dataclass(frozen=True)
class Source:
    """`columns`: name -> type of DuckDB. `first_row`: the number of a file's first row of data, as a person counts.
    `rows_known`: whether `<name> and places` has ROW. `parquet`: its files, where they are of Parquet."""

    name: str
    columns: dict[str, str]
    first_row: int = 1
    is_query: bool = False
    rows_known: bool = False
    parquet: tuple[Path, ...] = ()

    @property
    def with_places(self) -> str:
        return quoted(f"{self.name} and places")


def add_sources(database: Database, sources: dict[str, SourceConfig], folder: Path) -> dict[str, Source]:
    """All sources, those of files first. Files are relative to `folder`.

    Raises DataError for files that are missing, of another kind, or of other columns than the first, and for a query
    that DuckDB refuses."""
    of_files = {name: _add_files(database, name, of, folder) for name, of in sources.items() if of.files}
    of_queries = _add_queries(database, {name: of.query for name, of in sources.items() if of.query is not None})
    return {name: (of_files | of_queries)[name] for name in sources}


def files_of(patterns: Sequence[str], folder: Path, where: str) -> list[Path]:
    """Files, those in folders at any depth, and those that fit a glob, in the order of their paths; hidden ones are
    passed over.

    Raises DataError for a pattern without a file."""
    found: list[Path] = []
    for pattern in patterns:
        place = folder / Path(pattern).expanduser()
        with reading(place):
            if place.is_dir():
                here = [path for path in sorted(place.rglob("*")) if path.is_file() and _visible(path, place)]
            elif place.is_file():
                here = [place]
            else:
                root = Path(place.anchor)
                here = [path for path in sorted(root.glob(str(place.relative_to(root)))) if path.is_file()]
        if not here:
            raise DataError(f"{where}: expected files at {place}, got none")
        found += [path for path in here if path not in found]
    return found


def _visible(path: Path, folder: Path) -> bool:
    return not any(is_hidden(part) for part in path.relative_to(folder).parts)


def _add_files(database: Database, name: str, config: SourceConfig, folder: Path) -> Source:
    where = f"sources.{name}"
    files = files_of(config.files, folder, where)
    kinds = {path: _kind(path, config) for path in files}
    if len(set(kinds.values())) > 1:
        other = next(path for path in files if kinds[path] != kinds[files[0]])
        raise DataError(f"{where}: expected files of one kind, got {files[0]} and {other}")
    paths = "[" + ", ".join(literal(str(path)) for path in files) + "]"
    if kinds[files[0]] == "parquet":
        _check_footers(files)
        read = f"read_parquet({paths}, filename = {literal(FILE)}, file_row_number = true)"
        names = f"* EXCLUDE (file_row_number), file_row_number AS {quoted(ROW)}"
        _view(database, f"{name} and places", f"SELECT {names} FROM {read}", where)
    else:
        read = _read_csv(files, config, paths)
        _view(database, f"{name} and places", f"SELECT * FROM {read}", where)
    known = kinds[files[0]] == "parquet"
    places = f"{quoted(FILE)}, {quoted(ROW)}" if known else quoted(FILE)
    _view(database, name, f"SELECT * EXCLUDE ({places}) FROM {quoted(f'{name} and places')}", where)
    columns = database.columns(quoted(name), where)
    first_row = 2 if not known and config.header else 1
    return Source(name, columns, first_row, rows_known=known, parquet=tuple(files) if known else ())


def _add_queries(database: Database, queries: dict[str, str]) -> dict[str, Source]:
    """In an order in which each finds the ones that it reads."""
    found: dict[str, Source] = {}
    while waiting := [name for name in queries if name not in found]:
        problems: list[DataError] = []
        for name in waiting:
            try:
                found[name] = _add_query(database, name, queries[name])
            except DataError as error:
                problems.append(error)
        if len(problems) == len(waiting):
            raise problems[0]
    return found


def _add_query(database: Database, name: str, query: str) -> Source:
    where = f"sources.{name}"
    _view(database, name, query.rstrip().rstrip(";"), where)
    file = f"{literal(f'the query of {name}')} AS {quoted(FILE)}"
    _view(database, f"{name} and places", f"SELECT *, {file} FROM {quoted(name)}", where)
    return Source(name, database.columns(quoted(name), where), is_query=True)


def _view(database: Database, name: str, query: str, where: str) -> None:
    database.run(f"CREATE VIEW {quoted(name)} AS {query}", where)


def _kind(path: Path, config: SourceConfig) -> str:
    if config.format != "auto":
        return config.format
    suffixes = [suffix.lower() for suffix in path.suffixes]
    last = (
        suffixes[-2] if suffixes and suffixes[-1] in PACKED and len(suffixes) > 1 else suffixes[-1] if suffixes else ""
    )
    if last in PARQUET:
        return "parquet"
    if last in TEXT:
        return "csv"
    known = ", ".join((*TEXT, *PARQUET))
    raise DataError(
        f"{path}: expected a name that ends in one of {known}, with {' or '.join(PACKED)} behind or not; "
        "or say format: csv or format: parquet"
    )


def _check_footers(files: Sequence[Path]) -> None:
    for path in files:
        with reading(path), path.open("rb") as stream:
            head = stream.read(4)
            stream.seek(0, io.SEEK_END)
            size = stream.tell()
            stream.seek(max(0, size - 4))
            if size < 12 or head != b"PAR1" or stream.read(4) != b"PAR1":
                raise DataError(f"{path}: expected a whole Parquet file, got {size} bytes that are none; truncated?")
    try:
        first = pq.read_schema(files[0])
        for path in files[1:]:
            found = pq.read_schema(path)
            for field in first:
                other = found.field(field.name).type if field.name in found.names else "no such column"
                if other != field.type:  # DuckDB would cast, and round
                    raise DataError(
                        f"{path}, column {field.name}: expected {field.type}, as in {files[0]}, got {other}"
                    )
    except pa.ArrowException as error:
        raise DataError(f"{files[0]}: expected readable Parquet footers, got: {one_line(error)}") from error


def check_readable(source: Source, columns: Sequence[str]) -> None:
    """Raises DataError for the first row group of Parquet whose columns cannot be read: DuckDB does not say which."""
    for path in source.parquet:
        group = 0
        try:
            with reading(path), pq.ParquetFile(path) as file:
                for group in range(file.num_row_groups):
                    file.read_row_group(group, list(columns))
        except READ_ERRORS as error:
            raise DataError(
                f"{path}, row group {group}: expected readable columns {', '.join(columns)}, got: {one_line(error)}"
            ) from error


def _read_csv(files: Sequence[Path], config: SourceConfig, paths: str) -> str:
    """DuckDB's reader of text: every column as text, and no guesses."""
    first = _first_line(files[0], config)
    delimiter = config.delimiter or _delimiter(first)
    names = config.columns or _fields(first, delimiter)
    for name in names:
        if not name or [other.casefold() for other in names].count(name.casefold()) > 1:
            raise DataError(f"{files[0]}, line 1: expected a name of its own for every column, got {name!r}")
    for path in files[1:] if config.header else []:
        if (found := _fields(_first_line(path, config), delimiter)) != names:
            raise DataError(
                f"{path}, line 1: expected the columns of {files[0]}, {', '.join(names)}, got {', '.join(found)}"
            )
    columns = ", ".join(f"{literal(name)}: 'VARCHAR'" for name in names)
    null = ", ".join(literal(text) for text in config.null)
    options = [
        "auto_detect = false",
        f"columns = {{{columns}}}",
        f"delim = {literal(delimiter)}",
        "quote = '\"'",
        "escape = '\"'",
        f"header = {str(config.header).lower()}",
        f"encoding = {literal(config.encoding)}",
        f"filename = {literal(FILE)}",
        "strict_mode = true",
        "allow_quoted_nulls = false",
        *([f"nullstr = [{null}]"] if config.null else []),
    ]
    return f"read_csv({paths}, {', '.join(options)})"


def _first_line(path: Path, config: SourceConfig) -> str:
    """Without the mark of byte order that some programs write first."""
    try:
        with reading(path), pa.input_stream(str(path), compression="detect") as stream:
            text = stream.read(HEADER_BYTES)
    except READ_ERRORS as error:
        raise DataError(f"{path}: expected readable text, got: {one_line(error)}") from error
    encoding = {"utf-8": "utf-8-sig"}.get(config.encoding, config.encoding)
    try:
        lines = text.decode(encoding, errors="ignore" if len(text) == HEADER_BYTES else "strict").splitlines()
    except UnicodeDecodeError as error:
        line = text[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: expected text in {config.encoding}, got the byte {text[error.start]:#04x}; say "
            "encoding: latin-1, or the one it has"
        ) from error
    if not lines or not lines[0].strip():
        raise DataError(f"{path}, line 1: expected the names of the columns or values, got nothing")
    return lines[0]


def _delimiter(line: str) -> str:
    """The most frequent one of a line; a comma where there is but one column."""
    return max(DELIMITERS, key=line.count)


def _fields(line: str, delimiter: str) -> list[str]:
    return next(csv.reader([line], delimiter=delimiter))
