"""The permutation test against a plain loop, against chance, and where it cannot tell."""

from itertools import permutations

import numpy as np
import pytest

from dist_rec.runs.significance import LEVEL, MOST_DEALS, Spread, compare, fewest_of_each, least_p


def _by_loop(first: list[float], second: list[float]) -> float:
    """All orders of the values, the first ones in the first group."""
    values, size = [*first, *second], len(first)
    seen = abs(np.mean(second) - np.mean(first))
    hits = [abs(np.mean(of[size:]) - np.mean(of[:size])) >= seen - 1e-12 for of in permutations(values)]
    return sum(hits) / len(hits)


@pytest.mark.parametrize(("first", "second"), [(3, 3), (2, 4), (1, 5), (4, 3)])
def test_p_is_that_of_all_orders(first: int, second: int) -> None:
    rng = np.random.default_rng(first)
    a, b = rng.normal(size=first).tolist(), rng.normal(0.5, size=second).tolist()
    found = compare(a, b)
    assert found.exact and found.p == pytest.approx(_by_loop(a, b))
    assert found.difference == pytest.approx(np.mean(b) - np.mean(a))


@pytest.mark.parametrize(("first", "second"), [(4, 4), (3, 5), (2, 2), (1, 1)])
def test_groups_that_do_not_overlap_have_the_least_p(first: int, second: int) -> None:
    found = compare([0.1 + i / 100 for i in range(first)], [0.9 + i / 50 for i in range(second)])
    assert found.p == found.least_p == least_p(first, second)
    assert compare([0.9] * first, [0.1] * second).p == pytest.approx(found.p), "it has two sides"


def test_equal_values_do_not_differ_whatever_their_sums_round_to() -> None:
    found = compare([0.1, 0.2, 0.3, 0.1], [0.3, 0.1, 0.1, 0.2])
    assert found.p == 1.0 and "no more than seeds explain" in found.told()


def test_without_a_difference_p_is_small_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    small = [compare(*rng.normal(size=(2, 5)).tolist()).p < LEVEL for _ in range(2000)]
    assert 0.03 < np.mean(small) <= 0.06


def test_many_seeds_are_drawn_and_agree_with_counting() -> None:
    rng = np.random.default_rng(1)
    a, b = rng.normal(size=10).tolist(), rng.normal(0.8, size=10).tolist()
    counted = compare(a, b)
    drawn = compare([*a, *a[:1]], [*b, *b[:1]])
    assert counted.exact and not drawn.exact and drawn.least_p == 1 / (MOST_DEALS + 1)
    assert drawn.p == pytest.approx(counted.p, rel=0.5) and "200,000 drawn of 11 and 11 seeds" in drawn.told()
    assert compare([0.0] * 20, [1.0] * 20).p == drawn.least_p, "never zero"


def test_too_few_seeds_are_told() -> None:
    assert fewest_of_each() == 4
    assert compare([1.0, 1.1, 1.2], [2.0, 2.1, 2.2]).told() == (
        "+1.0000; too few seeds to tell: with 3 and 3 seeds no difference has a p below 0.10; expected at least 4 of "
        "each"
    )
    found = compare([1.0, 1.1, 1.2, 1.3], [2.0, 2.1, 2.2, 2.3])
    assert found.told() == "+1.0000, p = 0.029 (exact permutation test of 4 and 4 seeds): more than seeds explain"
    assert compare([1.0], [2.0]).can_tell is False and compare([1.0], [2.0] * 20).can_tell


def test_mean_and_deviation() -> None:
    assert Spread.of([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3) and Spread.of([1.0]) == Spread(1.0, None, 1)
