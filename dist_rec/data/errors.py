"""`DataError`, and file system errors as a DataError of one sentence with the path."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

# pyarrow raises these on damaged files; ValueError for column names that are no text.
READ_ERRORS = (pa.ArrowException, OSError, ValueError, OverflowError)


class DataError(ValueError):
    """A data file or folder is not what its schema says, or cannot be read or written."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a DataError with the path that could not be read."""
    try:
        yield
    except OSError as error:
        raise DataError(_sentence(error, path, "read")) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns an OSError of the block, Arrow's too, into a DataError with the path that could not be written."""
    try:
        yield
    except OSError as error:
        advice = "; make room, or name another place" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise DataError(_sentence(error, path, "written") + advice) from error


def _sentence(error: OSError, path: Path, done: str) -> str:
    """The requested path, the path in the error if it differs, and the reason."""
    named = error.filename if isinstance(error.filename, str) else ""
    place = f"{path} ({named})" if named and named != str(path) else str(path)
    return f"{place}: cannot be {done}: {error.strerror or one_line(error)}"


def one_line(error: BaseException) -> str:
    """The message of an error without line breaks."""
    return " ".join(str(error).split()) or type(error).__name__
