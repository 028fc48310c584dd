from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.errors import DataError
from dist_rec.data.id_files import read_ids

HASH = 2**64 - 3


def test_every_form(tmp_path: Path) -> None:
    """Distinct and ascending; an unsigned hash is the integer of the same bits."""
    (tmp_path / "ids.txt").write_text(f"7\n\n 3 # three\n# nothing\n7\n{HASH}\n-9\n")
    assert read_ids(tmp_path / "ids.txt").tolist() == [-9, -3, 3, 7]
    np.save(tmp_path / "ids.npy", np.array([7, 3, HASH], np.uint64))
    assert read_ids(tmp_path / "ids.npy").tolist() == [-3, 3, 7]
    pq.write_table(pa.table({"user": pa.array([7, 3, 7], pa.int32())}), tmp_path / "ids.parquet")
    assert read_ids(str(tmp_path / "ids.parquet")).tolist() == [3, 7]
    (tmp_path / "none").write_text("")
    assert read_ids(tmp_path / "none").dtype == np.int64 and len(read_ids(tmp_path / "none")) == 0


def test_what_is_no_file_of_ids(tmp_path: Path) -> None:
    for text in ("seven", "1.5", "1,2", str(2**64)):
        (tmp_path / "ids.txt").write_text(f"3\n{text}\n")
        with pytest.raises(DataError, match=f"ids.txt, line 2: expected one integer of 64 bits, got '{text}'"):
            read_ids(tmp_path / "ids.txt")
    np.save(tmp_path / "ids.npy", np.zeros((2, 2)))
    with pytest.raises(DataError, match=r"shape \(n,\), got float64"):
        read_ids(tmp_path / "ids.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="without pickle"):
        read_ids(tmp_path / "objects.npy")
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "two.parquet")
    with pytest.raises(DataError, match="one column of integers, got a"):
        read_ids(tmp_path / "two.parquet")
    pq.write_table(pa.table({"a": pa.array([1, None], pa.int64())}), tmp_path / "null.parquet")
    with pytest.raises(DataError, match="row 1: expected an integer, got null"):
        read_ids(tmp_path / "null.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"no")
    with pytest.raises(DataError, match="readable Parquet"):
        read_ids(tmp_path / "bad.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_ids(tmp_path / "absent.txt")


@settings(max_examples=25)
@given(ids=st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, max_size=30))
def test_all_forms_say_the_same(tmp_path_factory: pytest.TempPathFactory, ids: list[int]) -> None:
    folder = tmp_path_factory.mktemp("ids")
    (folder / "ids.txt").write_text("\n".join([*map(str, ids[:1]), "", *map(str, ids[1:])]) + "\n")
    np.save(folder / "ids.npy", np.array(ids, dtype=np.int64))
    pq.write_table(pa.table({"user": pa.array(ids, pa.int64())}), folder / "ids.parquet")
    for path in folder.iterdir():
        found = read_ids(path)
        assert found.tolist() == sorted(set(ids)) and found.dtype == np.int64, path


def test_an_id_that_is_none_of_its_table_is_named_with_its_place(tmp_path: Path) -> None:
    text, array, table = tmp_path / "ids.txt", tmp_path / "ids.npy", tmp_path / "ids.parquet"
    text.write_text("3\n# 99\n10 # last\n")
    np.save(array, np.array([1, 20]))
    pq.write_table(pa.table({"item": [5, -1]}), table)
    for path, told in ((text, "line 3: .*, got 10"), (array, "row 1: .*, got 20"), (table, "row 1: .*, got -1")):
        with pytest.raises(DataError, match=f"{path.name}, {told}"):
            read_ids(path, 10)
    assert read_ids(text, 11).tolist() == [3, 10]
