"""Candidates that are sampled for a request. Which ones depends on the seed and the request alone.

Legend: B requests, C candidates of all of them, K items that can be sampled.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.columns import Ints

ATTEMPTS = 20


@dataclass(frozen=True)
class Population:
    """`items` (K,) 63 bits that tell items apart, whatever number they share; `ids` field -> (K,), the ids of a
    candidate of each; `ends` (K,) float64, cumulative probabilities, None where all are equally likely."""

    items: Ints
    ids: dict[str, Ints]
    ends: NDArray[np.float64] | None

    def __len__(self) -> int:
        return len(self.items)


def sampled(population: Population, count: int, seed: int, requests: Ints, own: Ints, lengths: Ints) -> Ints:
    """(B, count) places in the population, of items that are neither among a request's own nor drawn before for it;
    -1 where `ATTEMPTS` draws found none.

    Args:
        requests: (B,) numbers that tell them apart, any of 64 bits.
        own: (C,) items that the requests have, as in `Population.items`, request after request, `lengths` (B,) each.
    """
    _, items = np.unique(np.concatenate([population.items, own]), return_inverse=True)
    items, own, size = items[: len(population)], items[len(population) :], len(items)
    found = np.full((len(requests), count), -1, np.int64)
    row = np.repeat(np.arange(len(requests)), lengths)
    taken = row * size + own
    for column in range(count):
        missing = np.arange(len(requests))
        for attempt in range(ATTEMPTS):
            if not len(missing):
                break
            place = _drawn(population, seed, requests[missing] * (count * ATTEMPTS) + column * ATTEMPTS + attempt)
            key = missing * size + items[place]
            fresh = ~np.isin(key, taken)
            found[missing[fresh], column] = place[fresh]
            taken = np.concatenate([taken, key[fresh]])
            missing = missing[~fresh]
    return found


def kept(seed: int, numbers: Ints, share: float) -> NDArray[np.bool_]:
    """(C,) whether each of these numbers is kept, each with the probability `share`."""
    return uniform(seed, numbers) < share


def _drawn(population: Population, seed: int, numbers: Ints) -> Ints:
    drawn = uniform(seed, numbers)
    if population.ends is None:
        return np.minimum((drawn * len(population)).astype(np.int64), len(population) - 1)
    return np.minimum(np.searchsorted(population.ends, drawn, side="right"), len(population) - 1)


def uniform(seed: int, numbers: Ints) -> NDArray[np.float64]:
    """In [0, 1), by the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        mixed = numbers.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
        mixed ^= mixed >> np.uint64(31)
    return (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
