from dataclasses import fields

import pytest

from benchmarks.ladder.rows import LATE, PRODUCT, ROWS, SHARED, chosen

STEPS = [("0", "1"), ("2", "3"), ("2", "4"), ("4", "5"), ("5", "6"), ("6", "7"), ("7", "8"), ("7", "9"), ("7", "10")]


@pytest.mark.parametrize(("before", "after"), STEPS)
def test_a_step_changes_one_thing(before: str, after: str) -> None:
    changed = {of.name for of in fields(SHARED) if getattr(ROWS[before], of.name) != getattr(ROWS[after], of.name)}
    # A projection of distinct rows needs the batch that has them.
    assert changed - {"name"} in ({*changed} - {"name", "batch"} or {"batch"}, {"batch", "model"})
    assert len(changed - {"name", "batch"}) <= 1


def test_the_product_stands_on_nothing_of_the_strongest_form() -> None:
    assert not PRODUCT.alike and PRODUCT.optimizer == "recipe" and LATE.alike


def test_chosen() -> None:
    assert chosen("all") == list(ROWS) and chosen("1,sync") == ["1", "sync"]
    with pytest.raises(ValueError, match="no row x, y; expected all, or some of 0, 1, 2"):
        chosen("x,1,y")
