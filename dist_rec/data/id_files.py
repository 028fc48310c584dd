"""Lists of ids in files: text with one id per line, `.npy`, or Parquet with one column of integers.

Nothing in such a file is run: pickled `.npy` files are refused."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.data.columns import Ints
from dist_rec.data.errors import READ_ERRORS, DataError, one_line, reading
from dist_rec.data.files import SUFFIXES

FORMS = "text with one id per line, .npy of integers, or Parquet with one column of integers"


def read_ids(path: Path, size: int | None = None) -> Ints:
    """(n,) int64 distinct ids of a file, in increasing order.

    A text file may have empty lines. `size`: ids have to be 0 .. size - 1; None for any that fit 64 bits.

    Raises DataError with the file, the line or row (from 1 on) and the value: for a file that cannot be read or holds
    anything but whole numbers, for an id out of range, and for a file without ids."""
    if path.suffix.lower() == ".npy":
        place, values = "entry", _numpy(path)
    elif path.suffix.lower() in SUFFIXES:
        place, values = "row", _parquet(path)
    else:
        return _distinct(path, *_text(path), "line", size)
    return _distinct(path, values, np.arange(1, len(values) + 1), place, size)


def _text(path: Path) -> tuple[Ints, Ints]:
    """The ids and the number of the line of each."""
    with reading(path):
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise DataError(f"{path}: expected {FORMS}, got a file that is no text") from None
    found, numbers = [], []
    for number, line in enumerate(lines, 1):
        if not (word := line.strip()):
            continue
        # int() alone would also take 1_000 and digits of other scripts.
        digits = word.removeprefix("-")
        if not (digits.isascii() and digits.isdigit()) or not -(2**63) <= int(word) < 2**63:
            raise DataError(f"{path}, line {number}: expected a whole number of 64 bits, got {word[:40]!r}")
        found.append(int(word))
        numbers.append(number)
    return np.array(found, dtype=np.int64), np.array(numbers, dtype=np.int64)


def _numpy(path: Path) -> Ints:
    with reading(path):
        try:
            values = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise DataError(f"{path}: expected {FORMS}, got a file that numpy cannot read: {one_line(error)}") from None
    kind = getattr(values, "dtype", np.dtype(object))
    if kind.kind not in "iu" or values.ndim != 1:
        raise DataError(f"{path}: expected an array of integers with one dim, got {kind} of shape {np.shape(values)}")
    return _as_int64(path, values, "entry")


def _parquet(path: Path) -> Ints:
    with reading(path):
        if not path.is_file():
            raise DataError(f"{path}: expected {FORMS}, got {'a folder' if path.is_dir() else 'nothing there'}")
        try:
            table = pq.ParquetFile(path).read()
        except READ_ERRORS as error:
            raise DataError(f"{path}: expected {FORMS}, got a file that cannot be read: {one_line(error)}") from None
    if table.num_columns != 1 or not pa.types.is_integer(table.schema.field(0).type):
        told = ", ".join(f"{field.name}: {field.type}" for field in table.schema)
        raise DataError(f"{path}: expected one column of integers, got {told or 'no column'}")
    column = table.column(0)
    if column.null_count:
        row = column.is_null().to_pylist().index(True) + 1
        raise DataError(f"{path}, row {row}: expected an id, got null")
    return _as_int64(path, column.to_numpy(), "row")


def _as_int64(path: Path, values: np.ndarray, place: str) -> Ints:
    if values.dtype == np.uint64 and len(values) and values.max() >= 2**63:
        at = int(np.argmax(values >= 2**63))
        raise DataError(f"{path}, {place} {at + 1}: expected a whole number below 2^63, got {values[at]}")
    return values.astype(np.int64)


def _distinct(path: Path, ids: Ints, numbers: Ints, place: str, size: int | None) -> Ints:
    if not len(ids):
        raise DataError(f"{path}: expected at least one id, got none")
    if size is not None and len(wrong := np.flatnonzero((ids < 0) | (ids >= size))):
        at = wrong[0]
        raise DataError(f"{path}, {place} {numbers[at]}: expected an id from 0 to {size - 1}, got {ids[at]}")
    return np.unique(ids)
