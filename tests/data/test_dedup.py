import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.data.dedup import unique_tokens

IDS = st.integers(min_value=-(2**63), max_value=2**63 - 1) | st.integers(min_value=0, max_value=3)


@given(st.integers(1, 4).flatmap(lambda fields: st.lists(st.tuples(*[IDS] * fields), max_size=50).map(lambda r: (fields, r))))
def test_rebuilds_every_column(case: tuple[int, list[tuple[int, ...]]]) -> None:
    fields, rows = case
    columns = [np.array([row[field] for row in rows], dtype=np.int64) for field in range(fields)]
    tokens = unique_tokens(columns)
    for column, unique in zip(columns, tokens.columns):
        assert unique.dtype == np.int64
        np.testing.assert_array_equal(unique[tokens.inverse], column)
    found = list(zip(*(column.tolist() for column in tokens.columns)))
    assert found == sorted(set(rows))
    assert tokens.inverse.dtype == np.int32


def test_order_depends_on_values_alone() -> None:
    columns = [np.array([3, 1, 3, 2]), np.array([0, 5, 0, 5])]
    shuffled = [column[[2, 3, 1, 0]] for column in columns]
    for one, other in zip(unique_tokens(columns).columns, unique_tokens(shuffled).columns):
        np.testing.assert_array_equal(one, other)


def test_columns_of_different_lengths() -> None:
    with pytest.raises(ValueError, match=r"same length, got \[2, 3\]"):
        unique_tokens([np.zeros(2), np.zeros(3)])


def test_no_columns() -> None:
    with pytest.raises(ValueError, match="at least one column"):
        unique_tokens([])
