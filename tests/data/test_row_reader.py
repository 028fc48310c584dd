"""Rows of a split from Parquet and from a reader of one's own, which is validated like any other."""

from pathlib import Path

import pyarrow as pa
import pytest

from dist_rec.common.strict import Strict
from dist_rec.data.errors import DataError
from dist_rec.data.files import RowGroup
from dist_rec.data.row_reader import PARQUET, RowReader, check_splits
from dist_rec.data.schema import Schema
from tests.data.requests import make_dataset, make_rows, make_schema, make_table


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 rows in two files, in groups of 8."""
    return make_dataset(tmp_path_factory.mktemp("rows") / "data", 30, rows_per_file=16)


def test_parquet_gives_the_rows_of_the_groups_in_the_order_asked_for(dataset: Path) -> None:
    schema = make_schema()
    groups = PARQUET.row_groups(dataset / "train", schema)
    assert [group.rows for group in groups] == [8, 8, 8, 6]
    wanted = [groups[2], groups[3], groups[0]]
    rows = make_table(make_rows(30))
    expected = pa.concat_tables([rows.slice(16, 14), rows.slice(0, 8)])
    assert PARQUET.read(wanted, schema).to_pylist() == expected.to_pylist()


class InMemory(RowReader):
    """A reader of one's own: two groups of two rows, the second one with an id too large."""

    asked: list[str] = []

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        self.asked.append(folder.name)
        return [RowGroup(folder / "memory", index, 2) for index in range(2)]

    def read_group(self, group: RowGroup, schema: Schema) -> pa.Table:
        rows = make_rows(2, seed=group.index)
        if group.index == 1:
            rows[0]["user"] = 1_000
        return make_table(rows)


def test_rows_of_a_reader_of_ones_own_are_validated_and_their_place_is_said() -> None:
    schema, reader = make_schema(), InMemory(Strict())
    first, second = reader.row_groups(Path("train"), schema)
    assert reader.read([first, first], schema).num_rows == 4
    with pytest.raises(DataError, match=r"memory.*row group 1.*user"):
        reader.read([first, second], schema)


def test_every_folder_is_listed_once_before_a_run(tmp_path: Path, dataset: Path) -> None:
    reader = InMemory(Strict())
    reader.asked.clear()
    check_splits(tmp_path, make_schema(), ["a", "b", "a"], reader)
    assert reader.asked == ["a", "b"]
    check_splits(dataset, make_schema(), ["train"])
    with pytest.raises(DataError, match="nothing"):
        check_splits(dataset, make_schema(), ["train", "nothing"])


def test_the_base_reads_nothing() -> None:
    reader = RowReader(Strict())
    with pytest.raises(NotImplementedError):
        reader.row_groups(Path("train"), make_schema())
    with pytest.raises(NotImplementedError):
        reader.read_group(RowGroup(Path("train"), 0, 1), make_schema())
