"""Writes datasets: a folder with `schema.yaml` and one folder of Parquet files per split.

Everything is written under a hidden name beside its place and moved there when complete, so a crash leaves nothing half
written. The writer replaces what the project made (see common/made.py), and anything else only with `force`.
"""

import itertools
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dist_rec.common.made import NotOurs, check_replaceable, is_unchanged, kind_of, mark, real, replace
from dist_rec.data.columns import Ints, arrow_schema
from dist_rec.data.errors import DataError, writing
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import SCHEMA_FILE
from dist_rec.data.validate import validate

ROWS_PER_GROUP = 256
ROWS_PER_FILE = 65_536
EVENTS_PER_TABLE = 2_000_000
SPLIT_ENDS = {"train": 0.8, "valid": 0.9, "test": 1.0}  # shares of the requests in order of time
DATASET, SPLIT = "dataset", "split"


@contextmanager
def staged(folder: Path, kind: str = DATASET, *, force: bool = False) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block succeeds, and is removed when the block fails.

    A folder in its place is replaced if the project made it, as a `kind`, and nobody changed it since, or with `force`.
    Otherwise, and for a dataset inside another dataset, this raises DataError before the block. It also raises
    DataError if something cannot be written, in the block too."""
    place = real(folder)
    try:
        with writing(folder):
            if kind == DATASET and not force:
                _check_outside(folder)
            check_replaceable(folder, kind, force=force)
            place.parent.mkdir(parents=True, exist_ok=True)
            temporary = Path(tempfile.mkdtemp(prefix=f".{place.name}-", dir=place.parent))
            try:
                temporary.chmod(0o755)
                yield temporary
                mark(temporary, kind)
                replace(folder, temporary, kind, force=force)
            except DataError as error:  # of a split inside, with its temporary path
                raise DataError(str(error).replace(str(temporary), str(folder))) from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)  # not there any more if all went well
    except NotOurs as error:
        raise DataError(str(error)) from error


def _check_outside(folder: Path) -> None:
    """Raises NotOurs for a place inside a dataset or split, whose readers would read the new rows too."""
    for parent in real(folder).parents:
        if (made := kind_of(parent)) in (DATASET, SPLIT):
            raise NotOurs(
                f"{folder}: expected a place outside of other datasets, got one inside the {made} {parent}; name "
                "another folder, or say --force (in Python force=True)"
            )


def write_schema(folder: Path, schema: Schema, *, force: bool = False) -> None:
    """Writes `schema.yaml` into a dataset folder.

    Raises DataError if it cannot be written, or, without `force`, if another schema is there that `write_schema` did
    not make."""
    path = folder / SCHEMA_FILE
    text = yaml.safe_dump(schema.model_dump(mode="json", exclude_defaults=True), sort_keys=False)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not force and not is_unchanged(path):
            if path.is_file() and path.read_bytes() == text.encode():
                return
            raise DataError(
                f"{path}: expected none, or one that dist_rec made and nobody changed since, got another one; name "
                "another folder, or say --force (in Python force=True) to overwrite it"
            )
        with staged_file(path) as temporary:
            temporary.write_text(text)
        mark(folder, DATASET, [path])


def write_split(
    folder: Path,
    tables: pa.Table | Iterable[pa.Table],
    schema: Schema,
    rows_per_group: int = ROWS_PER_GROUP,
    rows_per_file: int = ROWS_PER_FILE,
    *,
    force: bool = False,
) -> int:
    """Writes a split as `part-00000.parquet`, `part-00001.parquet`, ... and returns its number of rows.

    `tables` may be a stream. Columns are cast to the types of `arrow_schema`; extra columns are dropped. The reader
    assigns a row group to one rank, so small data needs small groups.

    Raises DataError if the rows do not fit the schema, or there are none, and what `staged` raises."""
    parts = [tables] if isinstance(tables, pa.Table) else tables
    checked = (
        validate(part, schema, file=f"table given for {folder}", row_group=index) for index, part in enumerate(parts)
    )
    groups = _regroup(checked, rows_per_group)
    per_file = -(-rows_per_file // rows_per_group)
    rows = 0
    with staged(folder, SPLIT, force=force) as temporary:
        for number in itertools.count():
            of_file = itertools.islice(groups, per_file)
            if (first := next(of_file, None)) is None:
                break
            path = temporary / f"part-{number:05d}.parquet"
            with pq.ParquetWriter(path, arrow_schema(schema), compression="zstd") as writer:
                for group in itertools.chain([first], of_file):
                    writer.write_table(group)
                    rows += group.num_rows
        if not rows:
            raise DataError(f"{folder}: expected at least one row to write, got none")
    return rows


def split_in_order(requests: Ints) -> dict[str, Ints]:
    """The first 80, the next 10 and the last 10 % of the rows, as train, valid and test."""
    ends = [round(share * len(requests)) for share in SPLIT_ENDS.values()]
    return dict(zip(SPLIT_ENDS, np.split(requests, ends[:-1])))


def in_parts(requests: Ints, lengths: Ints) -> list[Ints]:
    """Consecutive requests in parts of about `EVENTS_PER_TABLE` events; `lengths` (B,) counts each request's events."""
    part = np.cumsum(lengths) // EVENTS_PER_TABLE
    return np.split(requests, np.flatnonzero(np.diff(part)) + 1)


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A temporary file name that becomes `path` when the block succeeds, and is removed when the block fails."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of `rows` rows; the last may have fewer."""
    waiting: list[pa.Table] = []
    count = 0
    for table in tables:
        start = 0
        while count + table.num_rows - start >= rows:
            stop = start + rows - count
            yield pa.concat_tables([*waiting, table.slice(start, stop - start)])
            waiting, count, start = [], 0, stop
        waiting.append(table.slice(start))
        count += table.num_rows - start
    if count:
        yield pa.concat_tables(waiting)
