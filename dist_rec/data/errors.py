"""What is wrong with data, and errors of the file system and of Arrow said in one sentence with their path."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

# What pyarrow raises on damaged files, beside its own: OSError, ValueError (column names that are no text),
# OverflowError.
READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)


class DataError(ValueError):
    """A data file or folder is not what its schema says, or cannot be read or written."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Makes an OSError of the block a DataError that names what could not be read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{_place(error, path)}: cannot be read: {_reason(error)}") from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Makes an OSError of the block, Arrow's too, a DataError that names what could not be written."""
    try:
        yield
    except OSError as error:
        advice = "; make room, or name another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise DataError(f"{_place(error, path)}: cannot be written: {_reason(error)}{advice}") from error


def _place(error: OSError, path: Path) -> str:
    """The path that was asked for, and the one the system stumbled over where that is another."""
    named = error.filename if isinstance(error.filename, str) else ""
    return str(path) if not named or named == str(path) else f"{path} ({named})"


def _reason(error: OSError) -> str:
    return error.strerror or one_line(error)


def one_line(error: BaseException) -> str:
    """What an error says, without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
