"""Writes datasets: a folder with `schema.yaml` and one folder of Parquet files per split.

Everything is written under a hidden name beside its place and moved there when complete, so a crash leaves nothing half
written behind.
"""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from dist_rec.data.columns import arrow_schema
from dist_rec.data.schema import SCHEMA_FILE, Schema
from dist_rec.data.validate import DataError, validate

ROWS_PER_GROUP = 256
ROWS_PER_FILE = 65_536


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A temporary folder that becomes `folder` when the block ends well, and is removed when it does not.

    An earlier dataset or split at that place is replaced; anything else there is left alone and raises DataError.
    """
    if folder.exists() and not _replaceable(folder):
        raise DataError(f"{folder}: expected a new, empty or dataset folder to write to, got something else that is in the way")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if folder.exists():
            shutil.rmtree(folder)
        temporary.rename(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_schema(folder: Path, schema: Schema) -> None:
    """Writes `schema.yaml` into a dataset folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tree = schema.model_dump(mode="json", exclude_defaults=True)
    with staged_file(folder / SCHEMA_FILE) as temporary:
        temporary.write_text(yaml.safe_dump(tree, sort_keys=False))


def write_split(
    folder: Path,
    tables: pa.Table | Iterable[pa.Table],
    schema: Schema,
    rows_per_group: int = ROWS_PER_GROUP,
    rows_per_file: int = ROWS_PER_FILE,
) -> int:
    """Writes a split as `part-00000.parquet`, `part-00001.parquet`, ... and returns its number of rows.

    `tables` may be a stream; columns are cast to the types of `arrow_schema`, extra ones dropped. A row group is what the
    reader hands to one rank, so small data wants small groups.

    Raises DataError if the rows do not fit the schema, or there are none.
    """
    parts = [tables] if isinstance(tables, pa.Table) else tables
    groups = _regroup((_fit(part, schema, folder, index) for index, part in enumerate(parts)), rows_per_group)
    rows = 0
    with staged(folder) as temporary:
        writer: pq.ParquetWriter | None = None
        rows_in_file = files = 0
        try:
            for group in groups:
                if writer is None or rows_in_file >= rows_per_file:
                    if writer is not None:
                        writer.close()
                    writer = pq.ParquetWriter(temporary / f"part-{files:05d}.parquet", arrow_schema(schema), compression="zstd")
                    rows_in_file, files = 0, files + 1
                writer.write_table(group)
                rows_in_file += group.num_rows
                rows += group.num_rows
        finally:
            if writer is not None:
                writer.close()
        if not rows:
            raise DataError(f"{folder}: expected at least one row to write, got none")
    return rows


@contextmanager
def staged_file(path: Path) -> Iterator[Path]:
    """A temporary file name that becomes `path` when the block ends well, and is removed when it does not."""
    temporary = path.with_name(f".{path.name}.partial")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _fit(table: pa.Table, schema: Schema, folder: Path, index: int) -> pa.Table:
    validate(table, schema, file=f"table given for {folder}", row_group=index)
    wanted = arrow_schema(schema)
    return table.select(wanted.names).cast(wanted)


def _regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows` rows, but for the last."""
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


def _replaceable(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    entries = list(folder.iterdir())
    return (folder / SCHEMA_FILE).is_file() or all(entry.suffix == ".parquet" for entry in entries)
