"""Lists of ids: three forms of files say the same, and a mistake is named with its place."""

import pickle
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.errors import DataError
from dist_rec.data.id_files import read_ids


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


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("3\n\nfour\n", r"ids.txt, line 3: expected one integer of 64 bits, got 'four'"),
        ("3\n1.5\n", r"line 2: expected one integer of 64 bits, got '1.5'"),
        (f"{2**64}\n", r"line 1: .* got '18446744073709551616'"),
        ("3\n# 99\n10 # last\n", r"ids.txt, line 3: expected an id from 0 to 9, got 10"),
        ("-1\n", r"line 1: expected an id from 0 to 9, got -1"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=told):
        read_ids(tmp_path / "ids.txt", 10)


def test_an_unsigned_hash_is_the_integer_of_its_bits(tmp_path: Path) -> None:
    (tmp_path / "ids.txt").write_text(f"{2**64 - 1}\n5\n")
    np.save(tmp_path / "ids.npy", np.array([5, 2**64 - 1], dtype=np.uint64))
    for path in tmp_path.iterdir():
        assert read_ids(path).tolist() == [-1, 5]


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    np.save(tmp_path / "float.npy", np.array([1.0]))
    np.save(tmp_path / "two.npy", np.array([[1]]))
    np.save(tmp_path / "high.npy", np.array([1, 20]))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps([1]))
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"a": [1, None]}), tmp_path / "null.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    cases = {
        "float.npy": "expected integers of shape .n,., got float64",
        "two.npy": r"got int64 of shape \(1, 1\)",
        "high.npy": "row 2: expected an id from 0 to 9, got 20",
        "pickle.npy": "without pickle",
        "plain.npy": "without pickle",
        "two.parquet": r"expected one column of integers, got a \(int64\), b \(int64\)",
        "null.parquet": "row 2: expected an integer, got null",
        "broken.parquet": "expected a readable Parquet file",
        "missing.txt": "cannot be read",
    }
    for name, told in cases.items():
        with pytest.raises(DataError, match=told) as caught:
            read_ids(tmp_path / name, 10)
        assert name in str(caught.value)
