"""Ranks that share planned lanes: together they have all rows, in order, each once."""

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data.shares import joined, shares


@given(st.integers(1, 9), st.integers(1, 9), st.lists(st.integers(0, 12), min_size=9, max_size=9))
def test_every_row_of_every_lane_is_read_once_and_in_order(planned: int, ranks: int, sizes: list[int]) -> None:
    lanes = [np.arange(size) + 100 * lane for lane, size in enumerate(sizes[:planned])]
    read = [row for rank in range(ranks) for of in shares(planned, ranks, rank) for row in of.of(lanes[of.rank])]
    assert read == [row for lane in lanes for row in lane]


def test_ranks_have_about_as_many_rows() -> None:
    lanes = [np.arange(24)] * 3
    for ranks, each in ((1, 72), (2, 36), (4, 18), (6, 12)):
        rows = [sum(len(of.of(lanes[of.rank])) for of in shares(3, ranks, rank)) for rank in range(ranks)]
        assert rows == [each] * ranks


def test_as_many_ranks_as_planned_read_their_own_lane() -> None:
    for rank in range(4):
        (of,) = shares(4, 4, rank)
        assert of.rank == rank and of.of(np.arange(7)).tolist() == list(range(7))


def test_rows_of_several_tables_are_rows_of_one() -> None:
    one, two = pa.table({"a": [1, 2, 3]}), pa.table({"a": [4, 5]})
    found = joined([(one, np.array([2, 0])), (two, np.array([1]))])
    assert found is not None
    assert found[0].column("a").to_pylist() == [3, 1, 5] and found[1].tolist() == [0, 1, 2]
    assert joined([]) is None
    only = joined([(one, np.array([1]))])
    assert only is not None and only[0] is one and only[1].tolist() == [1]
