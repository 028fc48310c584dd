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
        ("3\n\nfour\n", r"ids.txt, line 3: expected a whole number of 64 bits, got 'four'"),
        ("3\n1.5\n", r"line 2: expected a whole number of 64 bits, got '1.5'"),
        ("1_000\n", r"line 1: .* got '1_000'"),
        (f"{2**63}\n", r"line 1: .* got '9223372036854775808'"),
        ("3\n\n10\n", r"ids.txt, line 3: expected an id from 0 to 9, got 10"),
        ("-1\n", r"line 1: expected an id from 0 to 9, got -1"),
        ("\n \n", r"ids.txt: expected at least one id, got none"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=told):
        read_ids(tmp_path / "ids.txt", 10)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xff\xfe\x00")
    np.save(tmp_path / "float.npy", np.array([1.0]))
    np.save(tmp_path / "two.npy", np.array([[1]]))
    np.save(tmp_path / "large.npy", np.array([1, 2**63], dtype=np.uint64))
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "plain.npy").write_bytes(pickle.dumps([1]))
    pq.write_table(pa.table({"a": [1], "b": [2]}), tmp_path / "two.parquet")
    pq.write_table(pa.table({"a": [1, None]}), tmp_path / "null.parquet")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    cases = {
        "a.txt": "no text",
        "float.npy": "expected an array of integers with one dim, got float64",
        "two.npy": r"got int64 of shape \(1, 1\)",
        "large.npy": "entry 2: expected a whole number below 2",
        "pickle.npy": "numpy cannot read",
        "plain.npy": "numpy cannot read",
        "two.parquet": "expected one column of integers, got a: int64, b: int64",
        "null.parquet": "row 2: expected an id, got null",
        "broken.parquet": "cannot be read",
        "missing.parquet": "nothing there",
        "missing.txt": "cannot be read",
    }
    for name, told in cases.items():
        with pytest.raises(DataError, match=told) as caught:
            read_ids(tmp_path / name)
        assert name in str(caught.value)
