"""What is counted of n-grams that share a row."""

import numpy as np
import pytest

from benchmarks.ngram.collisions import by_chance, distinct, lost, page, rows_of, words


def test_distinct_n_grams_and_those_that_are_lost() -> None:
    ids = np.array([1, 2, 1, 2, 3])
    assert sorted(tuple(ids[[at - 1, at]]) for at in distinct(ids, 2)) == [(1, 2), (2, 1), (2, 3)]
    assert lost(np.array([[1], [1], [2], [2]])) == 0.5
    assert lost(np.array([[1, 1], [1, 2], [2, 1], [2, 1]])) == 0.25, "two heads tell more apart than one"


def test_chance() -> None:
    rows, count = 500, 400
    drawn = np.random.default_rng(0).integers(rows, size=(200, count))
    measured = 1 - np.mean([len(np.unique(of)) for of in drawn]) / count
    assert by_chance(count, rows) == pytest.approx(measured, abs=0.01)


def test_the_mixed_hash_collides_as_by_chance_and_the_polynomial_at_multiples_does_not() -> None:
    ids = words(0, events=20_000, ids=512)
    once = distinct(ids, 2)
    chance = by_chance(len(once), 30 * 512)
    assert lost(rows_of(ids, 2, [30 * 512])[once]) == pytest.approx(chance, abs=0.02)
    assert lost(rows_of(ids, 2, [30 * 512], base=512)[once]) > 1.5 * chance
    assert lost(rows_of(ids, 2, [30 * 512 + 155], base=512)[once]) < 1.2 * chance


def test_heads_of_equal_rows_are_clones_only_by_the_polynomial() -> None:
    ids = words(0, events=20_000, ids=512)
    once, rows = distinct(ids, 2), [15_555, 15_555]
    assert lost(rows_of(ids, 2, rows, base=512)[once]) == lost(rows_of(ids, 2, rows[:1], base=512)[once]) > 0
    assert lost(rows_of(ids, 2, rows)[once]) < 0.01


def test_the_page_has_every_table() -> None:
    lines = list(page(events=3_000, ids=128))
    assert sum(line.startswith("|---") for line in lines) == 3 and len(lines) > 25
