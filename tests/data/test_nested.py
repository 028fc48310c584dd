from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data.columns import Column, FlatLists
from dist_rec.data.nested import Nested, first_problem, nested_column

LISTS = st.lists(st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=4), max_size=6)
COLUMN = Column("candidate.words", "candidate", "id", 10, nested=True)
TYPE = pa.list_(pa.list_(pa.int16()))


def _table(rows: list[Any]) -> pa.Table:
    """As it may come: sliced out of a longer one."""
    whole = pa.table({"candidate.words": pa.array([[[99], None], None, *rows, [[-1]]], TYPE)})
    return whole.slice(2, len(rows))


@given(rows=LISTS, seed=st.integers(0, 9))
def test_lists_of_some_candidates(rows: list[list[list[int]]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    column = Nested.of(_table(rows), "candidate.words")
    chosen = rng.integers(0, len(rows), 5) if rows else np.zeros(0, np.int64)
    candidates = column.of_rows(chosen)
    expected = [words for row in chosen for words in rows[row]]
    found = column.of_candidates(candidates)
    assert found.lengths.tolist() == [len(of) for of in expected]
    assert found.values.tolist() == [of for words in expected for of in words]
    some = np.flatnonzero(rng.random(len(candidates)) < 0.5)
    assert column.of_candidates(candidates[some]).values.tolist() == [of for i in some for of in expected[i]]


@given(rows=LISTS)
def test_a_column_is_made_of_counts_and_lists(rows: list[list[list[int]]]) -> None:
    inner = [words for row in rows for words in row]
    ids = np.array([of for words in inner for of in words], np.int64)
    lists = FlatLists(ids, np.array([len(of) for of in inner], np.int64))
    made = nested_column(np.array([len(row) for row in rows], np.int64), lists)
    assert made.to_pylist() == rows and first_problem(_table(rows), COLUMN) is None


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([[[1]], [[2], None]], (1, "a list for every candidate", "null at candidate 1")),
        ([[[1]], [], [[], [3, None]]], (2, "an id for every entry", "null at entry 1 of candidate 1")),
        ([[[1]], [[0], [], [9, 10]]], (1, "an id from 0 to 9", "10 at entry 1 of candidate 2")),
        ([[[-1]]], (0, "an id from 0 to 9", "-1 at entry 0 of candidate 0")),
    ],
)
def test_the_first_problem(rows: list[Any], problem: tuple[int, str, str]) -> None:
    assert first_problem(_table(rows), COLUMN) == problem
