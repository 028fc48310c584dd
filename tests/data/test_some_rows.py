import numpy as np

from dist_rec.data.some_rows import SomeRows
from tests.data.requests import make_rows, make_table

ROWS = make_rows(6)


def test_rows_in_an_order_of_ones_own() -> None:
    some = SomeRows(make_table(ROWS), np.array([4, 1, 1]))
    assert len(some) == 3 and some.scalars("user").tolist() == [4, 1, 1]
    for newest in (None, 2):
        lists = some.lists("history.item", newest)
        parts = [ROWS[row]["history.item"][-(newest or 99) :] for row in (4, 1, 1)]
        assert lists.values.tolist() == [item for part in parts for item in part]
        assert lists.lengths.tolist() == [len(part) for part in parts]
    assert some.where(np.array([True, False, True])).rows.tolist() == [4, 1]
