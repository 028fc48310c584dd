import numpy as np

from dist_rec.data.build.negatives import Population, kept, sampled

ITEMS = Population(np.arange(1, 11), {"item": np.arange(1, 11), "brand": np.arange(1, 11) % 3}, None)


def test_none_twice_and_none_that_the_request_has() -> None:
    own, lengths = np.array([1, 2, 3, 4, 5]), np.array([2, 0, 3])
    found = sampled(ITEMS, 5, 7, np.array([10, 11, 12]), own, lengths)
    items = ITEMS.ids["item"][found]
    assert found.shape == (3, 5) and all(len(set(row)) == 5 for row in items.tolist())
    assert not set(items[0]) & {1, 2} and not set(items[2]) & {3, 4, 5}


def test_they_depend_on_the_request_alone() -> None:
    every = sampled(ITEMS, 3, 7, np.arange(9), np.zeros(0, np.int64), np.zeros(9, np.int64))
    for number in range(9):
        alone = sampled(ITEMS, 3, 7, np.array([number]), np.zeros(0, np.int64), np.zeros(1, np.int64))
        assert (alone == every[number]).all()
    assert (sampled(ITEMS, 3, 8, np.arange(9), np.zeros(0, np.int64), np.zeros(9, np.int64)) != every).any()


def test_where_no_item_is_left_none_is_found() -> None:
    found = sampled(ITEMS, 3, 0, np.array([0]), np.arange(1, 11), np.array([10]))
    assert found.tolist() == [[-1, -1, -1]]


def test_as_likely_as_they_are_popular() -> None:
    weights = np.array([0, 1, 2, 3, 4, 0, 0, 0, 0, 10.0])
    population = Population(np.arange(10) + 2**61, {"item": np.arange(10)}, np.cumsum(weights) / weights.sum())
    count = 20_000
    found = sampled(population, 1, 3, np.arange(count), np.zeros(0, np.int64), np.zeros(count, np.int64))
    share = np.bincount(found.ravel(), minlength=10) / count
    assert np.abs(share - weights / 20).max() < 4 * np.sqrt(0.25 / count) and not share[weights == 0].any()


def test_a_share_is_kept() -> None:
    some = kept(3, np.arange(20_000), 0.3)
    assert abs(some.mean() - 0.3) < 4 * np.sqrt(0.21 / 20_000)
    assert (kept(3, np.arange(5), 0.3) == some[:5]).all() and (kept(4, np.arange(99), 0.3) != some[:99]).any()
