"""Streams of events with a given share of duplicates, as a batch of long histories holds them."""

import numpy as np
from numpy.typing import NDArray

REQUESTS, LENGTH = 512, 2000
VOCABULARY = 10_000_000


def event_ids(
    duplicates: float, shape: str = "zipf", count: int = REQUESTS * LENGTH, seed: int = 0
) -> NDArray[np.int64]:
    """(count,) ids of which a share of `duplicates` occurred before.

    `zipf`: popularity falls as a power of the rank, whose exponent is searched so that the share comes out; `uniform`:
    all ids of a vocabulary of the fitting size are alike. Ids are spread over `VOCABULARY`."""
    rng = np.random.default_rng(seed)
    if duplicates == 0:
        return rng.permutation(VOCABULARY)[:count].astype(np.int64)
    drawn = _zipf(duplicates, count, rng) if shape == "zipf" else _uniform(duplicates, count, rng)
    return rng.permutation(VOCABULARY)[drawn].astype(np.int64)


def fields_of(ids: NDArray[np.int64], fields: int) -> list[NDArray[np.int64]]:
    """Static fields of every event: the id, and what belongs to it (category, author, ...), in tables of falling
    size."""
    sizes = [VOCABULARY, 100_000, 1_000_000, 1_000, 50_000, 200, 5_000, 20]
    return [ids, *(ids * (2 * f + 3) % sizes[f] for f in range(1, fields))][:fields]


def share(ids: NDArray[np.int64]) -> float:
    return 1 - len(np.unique(ids)) / len(ids)


def _zipf(duplicates: float, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    low, high = 0.0, 3.0
    ranks = np.arange(1, VOCABULARY + 1, dtype=np.float64)
    uniform = rng.random(count)
    drawn = np.zeros(count, np.int64)
    for _ in range(18):
        exponent = (low + high) / 2
        cumulative = np.cumsum(ranks**-exponent)
        drawn = np.minimum(np.searchsorted(cumulative, uniform * cumulative[-1]), VOCABULARY - 1)
        low, high = (exponent, high) if share(drawn) < duplicates else (low, exponent)
    return drawn


def _uniform(duplicates: float, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Of V alike ids, V (1 - exp(-count / V)) are seen."""
    low, high = 1.0, float(VOCABULARY)
    for _ in range(60):
        middle = (low + high) / 2
        seen = middle * -np.expm1(-count / middle)
        low, high = (middle, high) if seen < (1 - duplicates) * count else (low, middle)
    return rng.integers(0, int(high), count)
