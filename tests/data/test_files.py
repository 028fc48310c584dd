"""What is read of a folder, what is passed over, and what is said."""

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.data import files
from dist_rec.data.errors import DataError
from dist_rec.data.files import data_files, row_groups
from dist_rec.data.reader import RequestReader
from dist_rec.data.row_reader import check_splits
from tests.data.requests import make_rows, make_schema, make_table

MADE_BY_SPARK = "part-00001-9c0e-c000.snappy.parquet"


def _write(path: Path, users: range) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(make_table([make_rows(users.stop)[user] for user in users]), path, row_group_size=4)
    return path


def _users(folder: Path) -> list[int]:
    reader = RequestReader(folders=[folder], schema=make_schema(), batch_size=99)
    return [user for batch in reader for user in batch.tensors["grouping_key"].tolist()]


def test_sub_folders_are_read_in_order_of_their_path(tmp_path: Path) -> None:
    _write(tmp_path / "date=2024-01-02" / "hour=1" / "a.parquet", range(3, 9))
    _write(tmp_path / "date=2024-01-01" / "b.parquet", range(3))
    _write(tmp_path / "z.parquet", range(12, 13))
    _write(tmp_path / "whole.parquet" / MADE_BY_SPARK, range(9, 12))
    assert _users(tmp_path) == [*range(13)]


@pytest.mark.parametrize(
    "name", ["a.parquet", MADE_BY_SPARK, "A.PARQUET", "a.parq", "a.pq", "a b ü.parquet", "000000_0.parquet"]
)
def test_names_of_data(tmp_path: Path, name: str) -> None:
    _write(tmp_path / name, range(3))
    assert _users(tmp_path) == [0, 1, 2]


@pytest.mark.parametrize(
    "name",
    [
        *("_SUCCESS", "_metadata", "_common_metadata", ".part-0.parquet.crc", "._part-0.parquet", ".part-0.parquet"),
        *("_temporary/0/part-0.parquet", ".ipynb_checkpoints/a.parquet", "x/.tmp/y/a.parquet", "_delta_log/0.parquet"),
    ],
)
def test_hidden_names_are_no_data(tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    _write(tmp_path / "a.parquet", range(3))
    for content in ("nonsense", _write(tmp_path / name, range(5)).read_bytes()):
        (tmp_path / name).write_bytes(content.encode() if isinstance(content, str) else content)
        assert _users(tmp_path) == [0, 1, 2]
    assert not caplog.records


def test_a_partition_folder_may_begin_with_an_underscore(tmp_path: Path) -> None:
    _write(tmp_path / "_day=1" / "a.parquet", range(3))
    assert _users(tmp_path) == [0, 1, 2]


def test_other_files_are_named_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    _write(tmp_path / "a.parquet", range(3))
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=1" / "rows.csv").touch()
    assert _users(tmp_path) == _users(tmp_path) == [0, 1, 2]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.getMessage().startswith(
        f"{tmp_path}: not read: {tmp_path}/day=1/rows.csv; data files end in .parquet"
    )
    (tmp_path / "a.parquet.gz").touch()
    _users(tmp_path)
    assert "a.parquet.gz and 1 other files" in caplog.messages[-1]


@pytest.mark.parametrize(
    "columns",
    [make_table([]), pa.table({name: pa.nulls(0) for name in make_table([]).column_names}), pa.table({})],
    ids=["same", "null", "none"],
)
def test_files_without_rows_beside_others(tmp_path: Path, columns: pa.Table) -> None:
    _write(tmp_path / "b.parquet", range(3))
    pq.write_table(columns, tmp_path / "a.parquet")
    pq.ParquetWriter(tmp_path / MADE_BY_SPARK, columns.schema).close()  # no row group at all
    assert _users(tmp_path) == [0, 1, 2]


def test_a_row_group_without_rows_between_others(tmp_path: Path) -> None:
    table = make_table(make_rows(4))
    with pq.ParquetWriter(tmp_path / "a.parquet", table.schema) as writer:
        for part in (table.slice(0, 2), table.slice(0, 0), table.slice(2)):
            writer.write_table(part)
    assert pq.ParquetFile(tmp_path / "a.parquet").num_row_groups == 3
    assert [group.rows for group in row_groups(tmp_path, make_schema())] == [2, 2]
    assert _users(tmp_path) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (lambda f: f.rmdir(), "expected a folder of Parquet files .*, got nothing there"),
        (lambda f: (f.rmdir(), f.touch()), "expected a folder of Parquet files .*, got a file"),
        (lambda f: (f.rmdir(), f.symlink_to("gone")), "expected a folder of Parquet files .*, got nothing there"),
        (lambda f: None, "expected a folder with at least one .parquet file, got 0 other files"),
        (lambda f: (f / "a.csv").touch(), "expected a folder with at least one .parquet file, got 1 other files"),
        (
            lambda f: pq.write_table(make_table([]), f / "a.parquet"),
            "expected at least one row, got 0 rows in 1 Parquet files",
        ),
        (lambda f: (f / "a.parquet").symlink_to("gone"), "a.parquet: expected a Parquet file, got a link to gone"),
        (lambda f: os.mkfifo(f / "a.parquet"), "a.parquet: expected a Parquet file, got something that is no file"),
        (lambda f: (f / "a.parquet").touch(), r"a.parquet: expected a Parquet file, got an empty file \(0 bytes\)"),
        (lambda f: (f / "loop").symlink_to(f), "loop: expected a folder of data, got a link that leads back to"),
        (
            lambda f: (_write(f / "user=1" / "a.parquet", range(3)), _drop(f / "user=1" / "a.parquet", "user")),
            "user=1 of the path is not read",
        ),
    ],
)
def test_what_is_no_split(tmp_path: Path, fill: Callable[[Path], object], message: str) -> None:
    (folder := tmp_path / "train").mkdir()
    fill(folder)
    for attempt in (
        lambda: row_groups(folder, make_schema()),
        lambda: check_splits(tmp_path, make_schema(), ["train"]),
    ):
        with pytest.raises(DataError, match=f"{folder}.*{message}"):
            attempt()


def _drop(path: Path, column: str) -> None:
    pq.write_table(pq.ParquetFile(path).read().drop_columns([column]), path)


def test_links_to_data_are_followed(tmp_path: Path) -> None:
    _write(tmp_path / "elsewhere" / "a.parquet", range(3))
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "new").symlink_to(tmp_path / "elsewhere")
    assert _users(tmp_path / "train") == [0, 1, 2]


def test_a_folder_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder))

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(DataError, match=f"^{tmp_path}: cannot be read: Permission denied$"):
        data_files(tmp_path)


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path / "a.parquet", range(3))

    def refuse(path: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(DataError, match=f"^{path}: cannot be read: Permission denied$"):
        row_groups(tmp_path, make_schema())


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_while_it_is_read(tmp_path: Path, workers: int) -> None:
    from dist_rec.data.reader import make_loader

    _write(tmp_path / "train" / "a.parquet", range(3))
    reader = RequestReader(folders=[tmp_path / "train"], schema=make_schema(), batch_size=1)
    shutil.rmtree(tmp_path / "train")
    with pytest.raises(DataError, match=r"^\S+a.parquet: expected a Parquet file, got nothing there$"):
        list(make_loader(reader, workers))


def test_all_splits_are_checked_before_a_run(tmp_path: Path) -> None:
    for split in ("train", "valid"):
        _write(tmp_path / split / "a.parquet", range(3))
    check_splits(tmp_path, make_schema(), ["train", "valid", "train"])
    (tmp_path / "valid" / "a.parquet").write_bytes(b"not a Parquet file")
    with pytest.raises(DataError, match=r"valid/a\.parquet: expected a Parquet file"):
        check_splits(tmp_path, make_schema(), ["train", "valid"])
    with pytest.raises(ConfigError, match="several named user"):
        check_splits(tmp_path, make_schema(request={"grouping_key": "user", "time": "user"}), ["train"])


@pytest.mark.parametrize(
    ("request_time", "event_time", "message"),
    [
        (
            1_700_000_000_000,
            1_699_999_999,
            "field time: expected a time in seconds .*, got 1700000000000, which looks like milli",
        ),
        (
            1_700_000_000,
            1_699_999_999_000_000,
            "field history.time: expected a time in seconds .* looks like microseconds",
        ),
        (1_700_000_000, 19_700, "field history.time: expected times in seconds, as in time, got at most 19700 beside"),
    ],
)
def test_statistics_tell_other_units_at_the_door(
    tmp_path: Path, request_time: int, event_time: int, message: str
) -> None:
    events = {f"history.{name}": [1] for name in ("item", "kind", "action", "page")} | {"history.time": [event_time]}
    table = make_table([row | {"time": request_time} | events for row in make_rows(3)])
    (tmp_path / "train").mkdir()
    for statistics in (True, False):
        pq.write_table(table, tmp_path / "train" / "a.parquet", write_statistics=statistics)
        attempt = row_groups if statistics else lambda folder, _: _users(folder)
        with pytest.raises(DataError, match=rf"a\.parquet, row group 0.*{message}"):
            attempt(tmp_path / "train", make_schema())


def test_warnings_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        files.warn_once("a thing that is said once in all tests")
    assert len(caplog.records) == 1


def _events_of(row: dict[str, Any]) -> int:
    return sum(max(len(row[name]), 1) for name in ("history.item", "searches.query"))


@pytest.mark.parametrize(
    "kind", [pa.list_(pa.int32()), pa.large_list(pa.int64()), pa.list_(pa.dictionary(pa.int32(), pa.int64()))]
)
def test_events_are_known_from_footers(tmp_path: Path, kind: pa.DataType) -> None:
    rows = make_rows(11)
    table = make_table(rows)
    before = table.schema.get_field_index("history.item")
    items = table.column(before).cast(pa.list_(pa.int64()))
    if pa.types.is_dictionary(kind.value_type):
        items = pa.ListArray.from_arrays(
            items.combine_chunks().offsets, items.combine_chunks().values.dictionary_encode()
        )
    table = table.set_column(before, "history.item", items.cast(kind))
    # Other columns that begin with the same name, and stand before it.
    table = table.add_column(0, "history.item.weights", [[[1.0] * 9] * 11]).add_column(0, "history.item.of", [[1] * 11])
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=4)
    found = row_groups(tmp_path, make_schema())
    assert [group.rows for group in found] == [4, 4, 3]
    assert [group.events for group in found] == [sum(map(_events_of, rows[first : first + 4])) for first in (0, 4, 8)]


def test_events_of_lists_of_one_length(tmp_path: Path) -> None:
    row = make_rows(1)[0] | {
        name: [1] * 3 for name in ("history.item", "history.kind", "history.action", "history.page")
    }
    row |= {"history.time": [1, 2, 3], "searches.query": [1, 2]}
    table = make_table([row] * 5)
    at = table.schema.get_field_index("history.item")
    fixed = pa.FixedSizeListArray.from_arrays(pa.array([1] * 15), 3)
    pq.write_table(table.set_column(at, "history.item", fixed), tmp_path / "a.parquet")
    assert [group.events for group in row_groups(tmp_path, make_schema())] == [25]
