"""Sequences whose next event depends on the two or three before it, with a candidate's true probability.

An event follows one of two chains, drawn anew each time: the next id comes from one of two groups that belong to the
last two ids, or from one of two that belong to the last three. Inside its group, and in one of ten cases altogether, it
is drawn by Zipf's law. Which groups belong to which ids has no pattern, so it has to be learned n-gram by n-gram.

Legend: S requests of L events, V ids, G groups; id i is of the group i mod G.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.data.columns import list_column
from dist_rec.data.schema import Schema
from dist_rec.data.synthetic.parts import zipf_cdf
from dist_rec.data.writer import write_schema, write_split

STRAY = 0.1  # events that follow no chain
FIRST = 0.9  # of the two groups of a chain
GROUPS = 8
EXPONENT = 0.8
ORDERS = (2, 3)
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MarkovConfig:
    """`requests` of the training split; validation and test have a quarter as many each. Of the `candidates` of a
    request, half are drawn as its next event."""

    ids: int = 24
    length: int = 8
    requests: int = 16_000
    candidates: int = 8
    seed: int = 0


def write_markov(folder: Path, config: MarkovConfig) -> None:
    """Writes a dataset: schema.yaml, train, valid, test."""
    write_schema(folder, _schema(config))
    rng = np.random.default_rng(config.seed)
    for name, share in (("train", 1), ("valid", 4), ("test", 4)):
        write_split(folder / name, _table(config, config.requests // share, rng), _schema(config), rows_per_group=256)


def _schema(config: MarkovConfig) -> Schema:
    return Schema.model_validate(
        {
            "name": "markov",
            "tables": {"item": config.ids},
            "request": {"grouping_key": "user"},
            "sequences": [{"name": "history", "ids": ["item"]}],
            "candidate": {"ids": ["item"], "labels": ["next"], "oracle": True},
        }
    )


def _table(config: MarkovConfig, requests: int, rng: np.random.Generator) -> pa.Table:
    cdf = zipf_cdf(config.ids, EXPONENT)
    q = np.diff(cdf, prepend=0.0)
    item = np.searchsorted(cdf, rng.random((requests, config.length)), side="right")
    for at in range(ORDERS[-1], config.length):
        item[:, at] = _drawn(item[:, :at], cdf, rng)
    is_next = np.arange(config.candidates) % 2 == 0
    columns = [
        _drawn(item, cdf, rng) if drawn else np.searchsorted(cdf, rng.random(requests), side="right")
        for drawn in is_next
    ]
    p = [probability(item, candidate, q) for candidate in columns]
    oracle = np.stack([of / (of + q[candidate]) for of, candidate in zip(p, columns, strict=True)], axis=1)
    shown = np.full(requests, config.candidates)
    return pa.table(
        {
            "user": pa.array(np.arange(requests)),
            "history.item": list_column(np.full(requests, config.length), item.reshape(-1)),
            "candidate.item": list_column(shown, np.stack(columns, axis=1).reshape(-1)),
            "candidate.next": list_column(shown, np.tile(is_next.astype(np.int64), requests)),
            "candidate.next.oracle": list_column(shown, oracle.reshape(-1)),
        }
    )


def successors(before: Ints) -> Iterator[tuple[float, Ints]]:
    """The four groups (S,) that belong to the last events of `before` (S, at least 3), each with its probability given
    that a chain is followed."""
    for order in ORDERS:
        for slot, share in ((0, FIRST), (1, 1 - FIRST)):
            state = np.full(len(before), 2 * order + slot, np.uint64)
            for j in range(order):
                state = (state * np.uint64(1_000_003) + before[:, -1 - j].astype(np.uint64)) * np.uint64(
                    0x9E3779B97F4A7C15
                )
                state ^= state >> np.uint64(29)
            yield share / len(ORDERS), (state >> np.uint64(32)).astype(np.int64) % GROUPS


def probability(before: Ints, candidate: Ints, q: NDArray[np.float64]) -> NDArray[np.float64]:
    """(S,) of the candidate as the next event."""
    group = candidate % GROUPS
    of_group = np.bincount(np.arange(len(q)) % GROUPS, q, GROUPS)
    chained = sum(share * (of == group) for share, of in successors(before)) / of_group[group]
    return q[candidate] * (STRAY + (1 - STRAY) * chained)


def _drawn(before: Ints, cdf: NDArray[np.float64], rng: np.random.Generator) -> Ints:
    """(S,) a next event."""
    of = list(successors(before))
    which = rng.choice(len(of), len(before), p=[share for share, _ in of])
    group = np.choose(which, [groups for _, groups in of])
    q = np.diff(cdf, prepend=0.0)
    inside = [np.cumsum(q[g::GROUPS]) / q[g::GROUPS].sum() for g in range(GROUPS)]
    draw, chained = rng.random(len(before)), np.empty(len(before), np.int64)
    for g, of_group in enumerate(inside):
        here = group == g
        chained[here] = g + GROUPS * np.searchsorted(of_group[:-1], draw[here], side="right")
    stray = np.searchsorted(cdf, rng.random(len(before)), side="right")
    return np.where(rng.random(len(before)) < STRAY, stray, chained)
