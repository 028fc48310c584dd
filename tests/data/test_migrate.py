"""A dataset in the words of before 0.1.0 is read, and migrated to the same rows in today's words."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import yaml
from torch import Tensor

from dist_rec.common.strict import ConfigError
from dist_rec.data.migrate import BEFORE, migrate_dataset
from dist_rec.data.older_words import older_column
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema import Schema
from dist_rec.data.schema_file import SCHEMA_FILE, load_schema
from dist_rec.data.writer import write_schema, write_split
from tests.data.requests import make_rows, make_schema, make_table


def _older_words(text: str) -> str:
    words = {"grouping_key:": "group:", "ids:": "static:", "side:": "dynamic:", "oracle:": "truth:"}
    for today, before in words.items():
        text = text.replace(today, before)
    return text


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """Two splits, the second with a file in a sub-folder."""
    schema = make_schema()
    write_schema(tmp_path, schema)
    for split, place in (("train", "part-0.parquet"), ("test", "day=1/part-0.parquet")):
        write_split(tmp_path / "made", make_table(make_rows(9, seed=len(split))), schema, rows_per_group=4)
        table = pq.read_table(tmp_path / "made" / "part-00000.parquet")
        path = tmp_path / split / place
        path.parent.mkdir(parents=True)
        pq.write_table(
            table.rename_columns([older_column(name) for name in table.column_names]), path, row_group_size=4
        )
        (tmp_path / "made" / "part-00000.parquet").unlink()
    path = tmp_path / SCHEMA_FILE
    path.write_text("# by hand\n" + _older_words(path.read_text()))
    return tmp_path


def _batches(folder: Path) -> list[Tensor]:
    found = []
    for split in ("train", "test"):
        reader = RequestReader(folders=[folder / split], schema=load_schema(folder), batch_size=4)
        found += [batch.tensors.buffer.clone() for batch in reader]  # pyright: ignore[reportAttributeAccessIssue]
    return found


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other))


def test_the_same_batches_before_and_after(older: Path) -> None:
    before, text = _batches(older), (older / SCHEMA_FILE).read_text()
    assert "static:" in text and "truth:" in text
    changed = migrate_dataset(older)
    assert {path.relative_to(older).as_posix() for path in changed} == {
        SCHEMA_FILE,
        "train/part-0.parquet",
        "test/day=1/part-0.parquet",
    }
    assert (older / BEFORE).read_text() == text, "comments are not lost"
    assert Schema.model_validate(yaml.safe_load((older / SCHEMA_FILE).read_text())) == make_schema()
    file = pq.ParquetFile(older / "train" / "part-0.parquet")
    assert "candidate.click.oracle" in file.schema_arrow.names and file.num_row_groups == 3
    assert _same(before, _batches(older))
    assert migrate_dataset(older) == [], "nothing is left to do"


def test_it_may_be_interrupted(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _batches(older)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(pq.ParquetWriter, "write_table", full)
        with pytest.raises(ValueError, match=r"part-0.parquet.*No space left"):
            migrate_dataset(older)
    assert _same(before, _batches(older))
    assert len(migrate_dataset(older)) == 3 and _same(before, _batches(older))
    assert not list(older.rglob("*.partial"))


def test_a_wrong_schema_changes_nothing(older: Path) -> None:
    (older / SCHEMA_FILE).write_text((older / SCHEMA_FILE).read_text() + "grops: {}\n")
    times = {path: path.stat().st_mtime_ns for path in older.rglob("*.parquet")}
    with pytest.raises(ConfigError, match="grops: unknown key; did you mean 'feature_groups'"):
        migrate_dataset(older)
    assert times == {path: path.stat().st_mtime_ns for path in older.rglob("*.parquet")}
