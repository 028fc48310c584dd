"""The declaration of n-grams: sizes, keys, and the traps of the polynomial hash."""

import re
from typing import Any

import pytest
from pydantic import ValidationError

from dist_rec.common.ngram import NgramSpec


def test_sub_tables_follow_each_other() -> None:
    spec = NgramSpec(orders=[2, 4], heads=2, rows=[5, 7, 11, 13])
    assert (spec.tables, spec.longest, spec.total_rows) == (4, 4, 36)
    assert spec.table_orders == [2, 2, 4, 4] and spec.first_rows == [0, 5, 12, 23]
    assert [numbers[:3] for numbers in spec.head_numbers()] == [[2, 5, 0], [2, 7, 5], [4, 11, 12], [4, 13, 23]]
    assert NgramSpec(rows=9).table_rows == [9] * 4


def test_heads_have_keys_of_their_own() -> None:
    keys = [numbers[3] for seed in range(50) for numbers in NgramSpec(heads=16, rows=5, seed=seed).head_numbers()[:16]]
    assert len(set(keys)) == 50 * 16 and all(-(2**63) <= key < 2**63 for key in keys)
    orders = NgramSpec(heads=2, rows=5).head_numbers()
    assert [numbers[3] for numbers in orders[:2]] == [numbers[3] for numbers in orders[2:]], "orders share them"


def test_powers_of_the_base() -> None:
    spec = NgramSpec(orders=[2, 3], heads=1, rows=[29, 101], hash="polynomial", base=9)
    assert [numbers[4:] for numbers in spec.head_numbers()] == [[1, 9, 0], [1, 9, 81]]


POLYNOMIAL = {"orders": [2], "heads": 2, "rows": [3_037, 3_161], "hash": "polynomial", "base": 100}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"orders": [3, 2], "rows": 5}, "orders: expected rising numbers from 2 to 8"),
        ({"orders": [1, 2], "rows": 5}, "orders: expected rising numbers"),
        ({"orders": [2, 9], "rows": 5}, "orders: expected rising numbers"),
        ({"rows": [5, 6]}, "rows: expected one number, or 4 (2 orders x 2 heads), got 2"),
        ({"rows": 0}, "rows: expected at least 1"),
        ({"rows": 2**30}, "in all at most 2147483647"),
        ({"rows": 50, "base": 3}, "base: belongs to hash: polynomial"),
        (POLYNOMIAL | {"base": None}, "hash: polynomial needs base"),
        (POLYNOMIAL | {"base": 3_160}, "rows 3037 of order 2: expected more rows than base=3160"),
        (
            POLYNOMIAL | {"rows": [3_037, 3_150]},
            "rows 3150 of order 2: expected no common divisor with base=100, got 50",
        ),
        (POLYNOMIAL | {"rows": [3_037, 3_203]}, "rows 3203 of order 2: expected at least 5% of base=100"),
        (POLYNOMIAL | {"rows": [3_037, 3_197]}, "from a multiple of it, got 3 rows"),
        (POLYNOMIAL | {"rows": 3_037}, "of order 2: expected different numbers, since heads of a polynomial"),
    ],
)
def test_refuses(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        NgramSpec.model_validate(given)


def test_accepts_what_lies_beside_the_traps() -> None:
    NgramSpec.model_validate(POLYNOMIAL)
    NgramSpec.model_validate(POLYNOMIAL | {"orders": [2, 3], "heads": 1, "rows": [3_037, 3_037]})
    NgramSpec(rows=3_037, heads=2)


def test_the_width_of_its_rows() -> None:
    spec = NgramSpec(rows=9)
    assert [spec.width(dim) for dim in (16, 64)] == [4, 16]
    with pytest.raises(ValueError, match=r"multiple of 16 \(4 x 2 orders x 2 heads\), got 24; take 32"):
        spec.width(24)
