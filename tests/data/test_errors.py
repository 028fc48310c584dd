import errno
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from dist_rec.data.errors import DataError, reading, writing


def test_errors_of_the_system_become_a_sentence_with_the_path(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"^{tmp_path}: cannot be read: Is a directory$"), reading(tmp_path):
        tmp_path.read_text()
    with (
        pytest.raises(
            DataError, match=rf"^{tmp_path} \({tmp_path}/a/b\): cannot be written: No such file or directory$"
        ),
        writing(tmp_path),
    ):
        (tmp_path / "a" / "b").write_text("")


def test_a_full_disk_has_advice_also_from_arrow(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot be written: No space left on device; make room"), writing(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DataError, match=r"cannot be written: .*No such file"), writing(tmp_path):
        pq.ParquetWriter(tmp_path / "no" / "where", pq.read_schema(_file(tmp_path)))


def _file(folder: Path) -> Path:
    from tests.data.requests import make_rows, make_table

    pq.write_table(make_table(make_rows(1)), folder / "a.parquet")
    return folder / "a.parquet"


def test_other_errors_pass() -> None:
    with pytest.raises(KeyError), reading(Path("x")):
        raise KeyError
    with pytest.raises(DataError, match=r"^mine$"), writing(Path("x")):
        raise DataError("mine")
