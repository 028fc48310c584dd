"""Readers of rows: what the base class does for a reader of one's own. Parquet: test_files.py, test_validate.py."""

from pathlib import Path

import pyarrow as pa
import pytest

from dist_rec.common.strict import Strict
from dist_rec.data.errors import DataError
from dist_rec.data.files import RowGroup
from dist_rec.data.reader import RequestReader
from dist_rec.data.row_reader import PARQUET, RowReader, check_splits
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_split
from tests.data.requests import make_rows, make_schema, make_table

ROWS = make_rows(10)


class InMemory(RowReader):
    """Two row groups of the rows above; `broken` changes what is read."""

    broken = False

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        if folder.name != "train":
            raise DataError(f"{folder}: expected train, got another one")
        return [RowGroup(folder / "memory", 0, 6), RowGroup(folder / "memory", 1, 4)]

    def read_group(self, group: RowGroup, schema: Schema) -> pa.Table:
        table = make_table(ROWS[:6] if group.index == 0 else ROWS[6:], schema)
        return table.drop_columns(["user"]) if self.broken and group.index == 1 else table


def test_it_gives_the_batches_that_files_give(tmp_path: Path) -> None:
    write_split(tmp_path / "train", make_table(ROWS), make_schema(), rows_per_group=6)
    options = {"folders": [tmp_path / "train"], "schema": make_schema(), "batch_size": 4}
    files, memory = (list(RequestReader(**options, rows=rows)) for rows in (PARQUET, InMemory(Strict())))
    assert [batch.tensors.buffer.tolist() for batch in files] == [batch.tensors.buffer.tolist() for batch in memory]


def test_what_it_reads_is_validated() -> None:
    reader = InMemory(Strict())
    reader.broken = True
    with pytest.raises(DataError, match="memory, row group 1, field user: expected a column of that name"):
        reader.read(reader.row_groups(Path("train"), make_schema()), make_schema())


def test_its_splits_are_checked_before_a_run() -> None:
    check_splits(".", make_schema(), ["train", "train"], InMemory(Strict()))
    with pytest.raises(DataError, match="valid: expected train"):
        check_splits(".", make_schema(), ["train", "valid"], InMemory(Strict()))
