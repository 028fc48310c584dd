"""Files of ids: text with one id per line, `.npy`, or Parquet with one column of integers."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.data.columns import Ints
from dist_rec.data.errors import READ_ERRORS, DataError, one_line, reading


def read_ids(path: str | Path, size: int | None = None) -> Ints:
    """(n,) int64, distinct and ascending. Empty lines of text, and what is behind a `#`, are no ids.

    `size`: ids of a table, 0 to size - 1; None for any.

    Raises DataError with file, line (from 1 on) or row (from 0 on) and value for what is no integer of 64 bits or no id
    of the table, and for a file of another form."""
    path = Path(path)
    with reading(path):
        content = path.read_bytes()
    place, lines = "row", None
    if path.suffix == ".npy":
        ids = _from_numpy(path)
    elif path.suffix in (".parquet", ".parq", ".pq"):
        ids = _from_parquet(path)
    else:
        place, (ids, lines) = "line", _from_text(path, content)
    if size is not None and len(wrong := np.flatnonzero((ids < 0) | (ids >= size))):
        at = int(wrong[0])
        number = at if lines is None else lines[at]
        raise DataError(f"{path}, {place} {number}: expected an id from 0 to {size - 1}, got {ids[at]}")
    return np.unique(ids)


def _from_text(path: Path, content: bytes) -> tuple[Ints, list[int]]:
    """The ids and the number of the line of each."""
    ids: list[int] = []
    lines: list[int] = []
    for number, line in enumerate(content.decode(errors="replace").splitlines(), start=1):
        if text := line.partition("#")[0].strip():
            try:
                value = int(text)
            except ValueError:
                value = 2**64
            if not -(2**63) <= value < 2**64:
                raise DataError(f"{path}, line {number}: expected one integer of 64 bits, got {text!r}")
            ids.append(value % 2**64)
            lines.append(number)
    return np.array(ids, np.uint64).view(np.int64), lines  # an unsigned hash is the integer of the same bits


def _from_numpy(path: Path) -> Ints:
    try:
        found = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(f"{path}: expected an array of integers without pickle, got: {one_line(error)}") from error
    if found.ndim != 1 or found.dtype.kind not in "iu":
        raise DataError(f"{path}: expected integers of shape (n,), got {found.dtype} of shape {found.shape}")
    return found.astype(np.int64)


def _from_parquet(path: Path) -> Ints:
    try:
        table = pq.read_table(path, use_threads=False)
    except READ_ERRORS as error:
        raise DataError(f"{path}: expected a readable Parquet file, got: {one_line(error)}") from error
    if table.num_columns != 1 or not pa.types.is_integer(table.schema[0].type):
        got = ", ".join(f"{field.name} ({field.type})" for field in table.schema) or "none"
        raise DataError(f"{path}: expected one column of integers, got {got}")
    if table.column(0).null_count:
        row = int(np.argmax(table.column(0).is_null().to_numpy()))
        raise DataError(f"{path}, row {row}: expected an integer, got null")
    return table.column(0).to_numpy().astype(np.int64)
