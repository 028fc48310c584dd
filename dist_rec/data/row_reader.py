"""Row readers list the row groups of a split and read them.

reader.py does the rest for every reader: it assigns row groups to ranks and workers, orders, resumes, deduplicates."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.common.strict import Strict
from dist_rec.data.event_store import check_known, check_store, folder_of, with_place
from dist_rec.data.files import RowGroup, row_groups
from dist_rec.data.schema import Schema
from dist_rec.data.validate import open_parquet, read_row_group, validate


class RowReader:
    """Base of all readers, made by `Name(options)`. A reader goes to the reader processes, so it must be picklable."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict) -> None:
        self.options = options

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        """The row groups of a split, in order, the same on every rank. It should not read the rows.

        Raises DataError if there are none or they cannot be read."""
        raise NotImplementedError

    def read_group(self, group: RowGroup, schema: Schema) -> pa.Table:
        """The `group.rows` rows of a row group, with the columns of the schema. `read` validates them."""
        raise NotImplementedError

    def read(self, groups: Sequence[RowGroup], schema: Schema) -> pa.Table:
        """Valid rows of several row groups, one after the other. Raises DataError with the file and the row group."""
        tables = [
            validate(self.read_group(group, schema), schema, file=group.path, row_group=group.index) for group in groups
        ]
        return pa.concat_tables(tables)


def read_requests(file: pq.ParquetFile, schema: Schema, *, path: Path, row_group: int) -> pa.Table:
    """As `read_row_group`; where events are stored once, the table knows where."""
    table = read_row_group(file, schema, path=path, row_group=row_group)
    if not any(sequence.once for sequence in schema.sequences):
        return table
    folder = folder_of(path, schema)
    check_known(table, schema, folder, file=path, row_group=row_group)
    return with_place(table, folder)


class ParquetReader(RowReader):
    """Parquet files in the folder of the split and in its sub-folders, see files.py."""

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        if any(sequence.once for sequence in schema.sequences):
            check_store(folder_of(folder, schema), schema)
        return row_groups(folder, schema)

    def read(self, groups: Sequence[RowGroup], schema: Schema) -> pa.Table:
        tables: list[pa.Table] = []
        for path, members in itertools.groupby(groups, key=lambda group: group.path):
            with open_parquet(path, schema) as file:
                tables += [read_requests(file, schema, path=path, row_group=group.index) for group in members]
        return pa.concat_tables(tables)


PARQUET = ParquetReader(Strict())


def check_splits(path: str | Path, schema: Schema, folders: Sequence[str], reader: RowReader = PARQUET) -> None:
    """Lists the row groups of these folders of a dataset, to find their errors before a run starts.

    Folders may repeat. Raises DataError, and ConfigError if two fields of the schema share a column."""
    for folder in dict.fromkeys(folders):
        reader.row_groups(Path(path) / folder, schema)
