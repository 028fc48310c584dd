"""Reads the text files of public datasets, plain or `.xz`. Errors name the file, the line, expected and got."""

import lzma
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dist_rec.common.made import real
from dist_rec.common.strict import Strict
from dist_rec.data.columns import Ints
from dist_rec.data.errors import DataError, reading


@dataclass(frozen=True)
class ImportSummary:
    """Rows and candidates that an importer wrote, per split, and events that it dropped, by reason."""

    name: str
    out: Path
    rows: dict[str, int]
    candidates: dict[str, int]
    dropped: dict[str, int]


class Importer:
    """Base of all importers, made by `Name(options)`."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict) -> None:
        self.options = options

    def __call__(self, source: Path, out: Path | None, *, force: bool = False) -> ImportSummary:
        """Writes a dataset folder from the files in `source`.

        Without `out` the importer names the folder. With `force`, it replaces any folder at that place. Raises
        DataError for missing files and malformed lines, and if the folder cannot be written or replaced; nothing is
        written then."""
        raise NotImplementedError


@dataclass(frozen=True)
class Lines:
    """A text file split into lines and fields; `first_line` is the number of the first kept line, counted from 1."""

    path: Path
    first_line: int
    fields: list[list[str]]

    def error(self, row: int, expected: str, got: str) -> DataError:
        return line_error(self.path, self.first_line + row, expected, got)

    def column(self, index: int) -> list[str]:
        return [fields[index] for fields in self.fields]

    def integers(self, index: int, name: str) -> Ints:
        """(lines,) one field of every line as int64."""
        return to_integers(self.column(index), lambda row, got: self.error(row, f"an integer as {name}", got))


def check_outside(source: Path, out: Path) -> None:
    """Raises DataError if writing to `out` would replace the source."""
    if real(out) in (real(source), *real(source).parents):
        raise DataError(
            f"{out}: expected another place than the source {source}, which would be deleted; name another folder"
        )


def is_there(folder: Path, name: str) -> bool:
    """Whether the folder has the file, plain or as `.xz`."""
    with reading(folder):
        return (folder / name).is_file() or (folder / f"{name}.xz").is_file()


def read_text(folder: Path, name: str, encoding: str = "utf-8") -> tuple[Path, list[str]]:
    """Path and lines of `name` or `name.xz`."""
    if not is_there(folder, name):
        raise DataError(f"{folder}: expected a file {name} or {name}.xz, got neither")
    path = folder / name if (folder / name).is_file() else folder / f"{name}.xz"
    try:
        with (
            reading(path),
            lzma.open(path, "rt", encoding=encoding)
            if path.suffix == ".xz"
            else path.open(encoding=encoding) as stream,
        ):
            lines = stream.read().splitlines()
    except (lzma.LZMAError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: expected a readable text file in {encoding}, got: {error}") from error
    if not lines:
        raise DataError(f"{path}: expected lines of text, got an empty file")
    return path, lines


def read_fields(
    folder: Path, name: str, separator: str, count: int, header: bool = False, encoding: str = "utf-8"
) -> Lines:
    """A file of `count` separated fields a line."""
    path, text = read_text(folder, name, encoding)
    lines = Lines(path, 2 if header else 1, [line.split(separator) for line in (text[1:] if header else text)])
    for row, fields in enumerate(lines.fields):
        if len(fields) != count:
            got = f"{len(fields)} in {separator.join(fields)!r}"
            raise lines.error(row, f"{count} fields separated by {separator!r}", got)
    return lines


def line_error(path: Path, line: int, expected: str, got: str) -> DataError:
    shown = got if len(got) <= 80 else f"{got[:77]}..."
    return DataError(f"{path}, line {line}: expected {expected}, got {shown}")


def to_integers(texts: Sequence[str], error: Callable[[int, str], DataError]) -> Ints:
    """Whole numbers, also written like 4.0; `error(position, text)` makes the exception for the first other text."""
    try:
        return np.array([int(text) for text in texts], dtype=np.int64)
    except (ValueError, OverflowError):
        pass
    values = np.empty(len(texts), dtype=np.int64)
    for position, text in enumerate(texts):
        try:
            number = float(text)
            values[position] = int(number)
        except (ValueError, OverflowError) as problem:
            raise error(position, repr(text)) from problem
        if number != values[position]:
            raise error(position, repr(text))
    return values
