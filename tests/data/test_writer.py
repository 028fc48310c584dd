from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.data.validate import DataError
from dist_rec.data.writer import staged, staged_file, write_split
from tests.data.requests import make_rows, make_schema, make_table


def _sizes(folder: Path) -> dict[str, list[int]]:
    files = {path.name: pq.ParquetFile(path).metadata for path in sorted(folder.iterdir())}
    return {name: [file.row_group(i).num_rows for i in range(file.num_row_groups)] for name, file in files.items()}


def test_rolls_files_and_row_groups(tmp_path: Path) -> None:
    table = make_table(make_rows(53))
    parts = [table.slice(0, 3), table.slice(3, 40), table.slice(43)]
    assert write_split(tmp_path / "train", parts, make_schema(), rows_per_group=8, rows_per_file=24) == 53
    assert _sizes(tmp_path / "train") == {
        "part-00000.parquet": [8, 8, 8],
        "part-00001.parquet": [8, 8, 8],
        "part-00002.parquet": [5],
    }
    assert pq.read_table(tmp_path / "train").equals(table)


def test_casts_and_drops_other_columns(tmp_path: Path) -> None:
    wide = make_table(make_rows(4)).cast(
        pa.schema([(f.name, pa.list_(pa.int64()) if f.name == "history.item" else f.type) for f in make_table([]).schema])
    )
    write_split(tmp_path / "train", wide.append_column("extra", [[1, 2, 3, 4]]), make_schema())
    assert pq.read_table(tmp_path / "train").schema.equals(make_table([]).schema)


def test_replaces_an_earlier_split(tmp_path: Path) -> None:
    for rows in (40, 5):
        write_split(tmp_path / "train", make_table(make_rows(rows)), make_schema(), rows_per_group=8, rows_per_file=8)
    assert _sizes(tmp_path / "train") == {"part-00000.parquet": [5]}


def test_nothing_half_written_and_the_old_kept(tmp_path: Path) -> None:
    write_split(tmp_path / "train", make_table(make_rows(3)), make_schema())

    def broken() -> Iterator[pa.Table]:
        yield make_table(make_rows(300))
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_split(tmp_path / "train", broken(), make_schema(), rows_per_group=8)
    assert _sizes(tmp_path / "train") == {"part-00000.parquet": [3]}
    assert [path.name for path in tmp_path.iterdir()] == ["train"]


def test_rows_are_validated(tmp_path: Path) -> None:
    rows = make_rows(3)
    rows[1]["user"] = 1000
    with pytest.raises(DataError, match="row group 0, row 1, field user: expected an id from 0 to 999, got 1000"):
        write_split(tmp_path / "train", make_table(rows), make_schema())
    assert list(tmp_path.iterdir()) == []


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one row to write, got none"):
        write_split(tmp_path / "train", [], make_schema())


def test_does_not_overwrite_other_things(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(DataError, match="something else that is in the way"), staged(tmp_path):
        pass
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_staged_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
