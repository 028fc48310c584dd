import errno
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.common.made import mark
from dist_rec.data.errors import DataError
from dist_rec.data.schema_file import load_schema
from dist_rec.data.writer import staged, staged_file, write_schema, write_split
from tests.data.requests import make_rows, make_schema, make_table


def _sizes(folder: Path) -> dict[str, list[int]]:
    files = {path.name: pq.ParquetFile(path).metadata for path in sorted(folder.glob("*.parquet"))}
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
        pa.schema(
            [(f.name, pa.list_(pa.int64()) if f.name == "history.item" else f.type) for f in make_table([]).schema]
        )
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


def test_errors_of_a_split_name_the_place_that_was_asked_for(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    with pytest.raises(DataError, match=f"^{shop / 'train'}: expected at least one row"), staged(shop) as folder:
        write_split(folder / "train", [], make_schema())
    assert list(tmp_path.iterdir()) == []


def test_no_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected at least one row to write, got none"):
        write_split(tmp_path / "train", [], make_schema())


def _user_files(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine")


def _user_dataset(folder: Path) -> None:
    (folder / "schema.yaml").write_text("mine")
    pq.write_table(make_table(make_rows(3)), folder / "mine.parquet")


def _user_part(folder: Path) -> None:
    pq.write_table(make_table(make_rows(3)), folder / "mine.parquet")


def _added(folder: Path) -> None:
    write_split(folder, make_table(make_rows(3)), make_schema())
    (folder / "part-00001.parquet").write_bytes((folder / "part-00000.parquet").read_bytes())


def _edited(folder: Path) -> None:
    write_split(folder, make_table(make_rows(3)), make_schema())
    pq.write_table(make_table(make_rows(2)), folder / "part-00000.parquet")


def _other_kind(folder: Path) -> None:
    (folder / "weights").touch()
    mark(folder, "checkpoint")


@pytest.mark.parametrize("fill", [_user_files, _user_dataset, _user_part, _added, _edited, _other_kind])
@pytest.mark.parametrize("linked", [False, True])
def test_what_the_user_made_is_kept_unless_forced(tmp_path: Path, fill: Callable[[Path], None], linked: bool) -> None:
    folder = tmp_path / "train"
    (target := tmp_path / "elsewhere" if linked else folder).mkdir()
    if linked:
        folder.symlink_to(target)
    fill(folder)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    drawn: list[int] = []

    def tables() -> Iterator[pa.Table]:
        drawn.append(1)
        yield make_table(make_rows(3))

    for attempt in (lambda: write_split(folder, tables(), make_schema()), lambda: staged(folder).__enter__()):
        with pytest.raises(DataError, match=f"{folder}: expected a new or empty folder.*--force"):
            attempt()
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before and not drawn
    assert len(list(tmp_path.iterdir())) == 1 + linked
    write_split(folder, tables(), make_schema(), force=True)
    assert _sizes(folder) == {"part-00000.parquet": [3]} and folder.is_symlink() is linked


def test_no_dataset_comes_into_another_one_unless_forced(tmp_path: Path) -> None:
    shop = tmp_path / "shop"
    write_schema(shop, make_schema())
    write_split(shop / "train", make_table(make_rows(3)), make_schema())
    write_split(shop / "days" / "1", make_table(make_rows(3)), make_schema())
    for place, around in [("train/sub", "split {}/train"), ("train/a/b", "split {}/train"), ("other", "dataset {}")]:
        message = (
            f"^{shop / place}: expected a place outside of other datasets, got one inside the {around.format(shop)};"
        )
        with pytest.raises(DataError, match=message), staged(shop / place):
            raise AssertionError
        assert not (shop / place).exists()
    with staged(shop / "train" / "sub", force=True):
        pass
    assert (shop / "train" / "sub").is_dir()


def test_a_file_that_comes_while_it_is_written_is_kept(tmp_path: Path) -> None:
    write_split(tmp_path / "train", make_table(make_rows(3)), make_schema())
    with pytest.raises(DataError, match="mine was added"), staged(tmp_path / "train", "split") as temporary:
        (temporary / "new").touch()
        (tmp_path / "train" / "mine").touch()
    assert (tmp_path / "train" / "mine").exists() and _sizes(tmp_path / "train") == {"part-00000.parquet": [3]}


@pytest.mark.parametrize("old", ["name: mine", "", None])
def test_a_schema_of_the_user_is_kept(tmp_path: Path, old: str | None) -> None:
    path = tmp_path / "schema.yaml"
    path.symlink_to("gone") if old is None else path.write_text(old)
    with pytest.raises(DataError, match=f"{path}: expected none, or one that dist_rec made .*force=True"):
        write_schema(tmp_path, make_schema())
    assert path.is_symlink() if old is None else path.read_text() == old
    write_schema(tmp_path, make_schema(), force=True)
    assert load_schema(tmp_path) == make_schema()


def test_a_schema_of_ours_is_replaced_until_it_is_edited(tmp_path: Path) -> None:
    for name in ("a", "b", "b"):
        write_schema(tmp_path, make_schema(name=name))
    assert load_schema(tmp_path).name == "b"
    with (tmp_path / "schema.yaml").open("a") as stream:
        stream.write("# mine\n")
    with pytest.raises(DataError, match="nobody changed since"):
        write_schema(tmp_path, make_schema(name="c"))
    assert (tmp_path / "schema.yaml").read_text().endswith("# mine\n")


def test_a_schema_as_the_user_wrote_it_stays_the_users(tmp_path: Path) -> None:
    write_schema(tmp_path / "ours", make_schema())
    (tmp_path / "schema.yaml").write_text((tmp_path / "ours" / "schema.yaml").read_text())
    write_schema(tmp_path, make_schema())
    with pytest.raises(DataError, match="expected none"):
        write_schema(tmp_path, make_schema(name="other"))


@pytest.mark.parametrize(
    "place", ["a-file/data", "a-file", "/proc/nowhere/data", "/proc/data", "/sys/x", "x" * 300, "/dev/null/x"]
)
def test_places_where_nothing_can_be_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "a-file").write_text("mine")
    folder = tmp_path / place
    attempts = (
        lambda: write_split(folder, make_table(make_rows(3)), make_schema()),
        lambda: write_schema(folder, make_schema()),
        lambda: staged(folder, force=True).__enter__(),
    )
    for attempt in attempts:
        with pytest.raises(DataError, match=rf"^{folder}[: ]") as caught:
            attempt()
        assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a-file"] and (tmp_path / "a-file").read_text() == "mine"


@pytest.mark.parametrize("written", ["table", "footer"])
def test_a_disk_that_fills_up(tmp_path: Path, written: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "Error writing bytes to file. Detail: [errno 28] No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table" if written == "table" else "close", full)
    with pytest.raises(
        DataError, match=rf"^{tmp_path / 'train'}: cannot be written: .*No space left on device; make room"
    ):
        write_split(tmp_path / "train", make_table(make_rows(3)), make_schema())
    assert list(tmp_path.iterdir()) == []


def test_staged_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), staged_file(tmp_path / "a") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
