"""The data files of a split's folder.

All Parquet files in the folder and its sub-folders count, in order of their path: names that end in .parquet, .parq or
.pq, in any case. As in Spark and Arrow, names that begin with "." or "_" are no data (`_SUCCESS`, `._part-0.parquet`,
unfinished files), except for partition folders such as `_day=2`. Files without rows are skipped, whatever their columns
are: Spark writes some. Values of partition folders (`date=2024-01-02`) are not read."""

import functools
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from dist_rec.data.columns import Column, columns_of
from dist_rec.data.errors import DataError, reading
from dist_rec.data.schema import Schema
from dist_rec.data.times import EXPECTED, Span, mixed_units, other_unit, outlier
from dist_rec.data.validate import open_parquet

SUFFIXES = (".parquet", ".parq", ".pq")
LIST_ENTRIES = ("list.element", "list.item", "bag.array_element", "array")  # writers' names for the values of a list

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowGroup:
    """Rows that are read together: row group `index` of the file `path`, or what a reader takes for one.

    `events`: of all its sequences before `max_length` cuts any, where an empty sequence counts as one event, or a good
    guess; it decides which rank reads what. None where the reader does not know, which excludes `data.batch_events`."""

    path: Path
    index: int
    rows: int
    events: int | None = None


def row_groups(folder: Path, schema: Schema) -> list[RowGroup]:
    """The row groups of a split that have rows, in order of path and index. Reads footers only.

    Raises DataError if the folder has no rows, or has a file that cannot be read or does not fit the schema."""
    paths, others = data_files(folder)
    if others:
        some = str(others[0]) if len(others) == 1 else f"{others[0]} and {len(others) - 1} other files"
        warn_once(f"{folder}: not read: {some}; data files end in {', '.join(SUFFIXES)}")
    if not paths:
        raise DataError(f"{folder}: expected a folder with at least one .parquet file, got {len(others)} other files")
    found: list[RowGroup] = []
    for path in paths:
        with open_parquet(path, schema) as file:
            metadata = file.metadata
            if metadata.num_rows:  # a file without rows may have any columns
                lists = [of for of in schema.sequences if not of.once]
                leaves = [_list_leaf(metadata.schema, f"{of.name}.{of.ids[0].name}") for of in lists]
                once = [f"{of.name}.events" for of in schema.sequences if of.once]
                found += [
                    RowGroup(path, index, rows, _events(metadata.row_group(index), leaves) + _known(file, index, once))
                    for index in range(file.num_row_groups)
                    if (rows := metadata.row_group(index).num_rows)
                ]
            _check_statistics(metadata, schema, path)
    if not found:
        raise DataError(f"{folder}: expected at least one row, got 0 rows in {len(paths)} Parquet files")
    return found


def data_files(folder: Path) -> tuple[list[Path], list[Path]]:
    """The data files of a folder, in order, and its other files that are not hidden.

    Raises DataError if it is no folder, or cannot be read, or if a link in it leads back to a folder around it."""
    with reading(folder):
        if not folder.is_dir():
            got = "a file" if folder.exists() else "nothing there"
            raise DataError(f"{folder}: expected a folder of Parquet files (a split of the dataset), got {got}")
        files = sorted(_visible_files(folder, ()))
    data = [path for path in files if path.suffix.lower() in SUFFIXES]
    return data, [path for path in files if path.suffix.lower() not in SUFFIXES]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is no data."""
    return name.startswith(".") or (name.startswith("_") and "=" not in name)


@functools.cache
def warn_once(text: str) -> None:
    """Logs a warning once per process: a run opens its splits many times."""
    log.warning("%s", text)


def _visible_files(folder: Path, around: tuple[str, ...]) -> Iterator[Path]:
    around = (*around, os.path.realpath(folder))
    if around[-1] in around[:-1]:
        raise DataError(f"{folder}: expected a folder of data, got a link that leads back to {around[-1]}")
    for path in folder.iterdir():
        if not is_hidden(path.name):
            yield from _visible_files(path, around) if path.is_dir() else [path]


def _list_leaf(columns: Any, name: str) -> int:
    """The place of a list column's values among the leaves of a file. Writers name the levels in between as they like;
    another column may begin with the same name."""
    paths = {index: f"{columns.column(index).path}." for index in range(len(columns))}
    below = [index for index in paths if paths[index].startswith(f"{name}.")]
    lists = [index for index in below if columns.column(index).max_repetition_level]
    return min(lists, key=lambda index: len(paths[index]))


def _events(group: Any, leaves: list[int]) -> int:
    """Values of all sequences: an empty list has one, which says that it is empty."""
    return sum(group.column(leaf).num_values for leaf in leaves)


def _known(file: pq.ParquetFile, index: int, names: list[str]) -> int:
    """Events of sequences that are stored once; a row without any counts as one, as an empty list does."""
    if not names:
        return 0
    table = file.read_row_group(index, columns=names, use_threads=False)
    return sum(int(np.maximum(table.column(name).to_numpy(), 1).sum()) for name in names)


def _check_statistics(metadata: Any, schema: Schema, path: Path) -> None:
    """Raises DataError if the statistics of a file show times that are not in seconds."""
    timed = [column for column in columns_of(schema) if column.kind == "time"]
    for index in range(metadata.num_row_groups if timed else 0):
        group = metadata.row_group(index)
        chunks = [group.column(place) for place in range(group.num_columns)]
        spans = {column.name: span for column in timed if (span := _span(column, chunks)) is not None}
        for name, span in spans.items():
            if got := other_unit(outlier(span)):
                raise DataError(f"{path}, row group {index}, field {name}: expected {EXPECTED}, got {got}")
            request = spans.get(schema.request.time or "")
            if request is not None and (got := mixed_units(request, span)):
                wanted = f"times in seconds, as in {schema.request.time}"
                raise DataError(f"{path}, row group {index}, field {name}: expected {wanted}, got {got}")


def _span(column: Column, chunks: list[Any]) -> Span | None:
    """Lowest and highest value of an integer column by its statistics; None without them."""
    paths = [f"{column.name}.{entry}" for entry in LIST_ENTRIES] if column.is_list else [column.name]
    found = next((chunk.statistics for chunk in chunks if chunk.path_in_schema in paths), None)
    if found is None or not found.has_min_max:
        return None
    # Timestamps are converted to seconds whatever their unit; pyarrow has no statistics of nanoseconds.
    integers = found.physical_type in ("INT32", "INT64") and found.logical_type.type in ("NONE", "INT")
    return Span(found.min, found.max) if integers else None
