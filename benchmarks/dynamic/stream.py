"""A stream of windows of requests in which items come and go, and the probability of every label is known.

The logit of a label is the item's own, and one more where the item is of the class that the user likes, which shows in
the history. An item is seen in a few windows only, so what is known of items has to be learned again and again; unless
it shows in their content, a vector that tells of the class and of the logit with noise.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from dist_rec.common.id_hash import mixed
from dist_rec.common.open_ids import IdKind
from dist_rec.data.columns import arrow_schema, list_column
from dist_rec.data.schema import Schema

CLASSES = 8
BASE = -1.5
CONTENT = {"item": {"content": {"vector": CLASSES + 1}}}


@dataclass(frozen=True)
class StreamConfig:
    """`active` items at a time, of which the share `new` is replaced in every window."""

    windows: int = 24
    requests: int = 3000
    active: int = 4000
    new: float = 0.3
    length: int = 12
    candidates: int = 4
    own_std: float = 1.2
    popularity_std: float = 1.0
    content_noise: float = 1.0  # of each number of a vector, whose signals are 1 and `own_std`
    seed: int = 1

    @property
    def replaced(self) -> int:
        return round(self.active * self.new)

    @property
    def items(self) -> int:
        """All items that ever are."""
        return self.active + self.replaced * (self.windows - 1)


def schema_of(rows: int, kind: IdKind, *, content: bool = False) -> Schema:
    return Schema.model_validate(
        {
            "name": "stream",
            "tables": {"item": {"rows": rows, "ids": kind}},
            "request": {"grouping_key": "user"},
            "sequences": [{"name": "history", "ids": ["item"]}],
            "candidate": {"ids": ["item"], "labels": ["click"], "oracle": True},
            "attributes": CONTENT if content else {},
        }
    )


def windows(config: StreamConfig, schema: Schema) -> Iterator[pa.Table]:
    """The requests of one window after the other; of an open table with 64-bit ids in the place of item numbers."""
    rng = np.random.default_rng(config.seed)
    own, of_class = _items(config, rng)
    popularity = rng.lognormal(0.0, config.popularity_std, config.items)
    active = np.arange(config.active)
    for window in range(config.windows):
        if window:
            stay = rng.permutation(active)[: config.active - config.replaced]
            first = config.active + (window - 1) * config.replaced
            active = np.concatenate([stay, np.arange(first, first + config.replaced)])
        liked = rng.integers(0, CLASSES, config.requests)
        events = _liked(rng, active, popularity, of_class, np.repeat(liked, config.length))
        shown = rng.choice(active, config.requests * config.candidates, p=_shares(popularity[active]))
        likes = of_class[shown] == np.repeat(liked, config.candidates)
        truth = 1.0 / (1.0 + np.exp(-(BASE + own[shown] + likes)))
        yield _table(config, schema, events, shown, (rng.random(len(shown)) < truth, truth))


def contents(config: StreamConfig) -> NDArray[np.float32]:
    """(items, CLASSES + 1): the class and the logit of every item that ever is, with noise."""
    own, of_class = _items(config, np.random.default_rng(config.seed))
    told = np.concatenate([np.eye(CLASSES)[of_class], own[:, None]], axis=1)
    noise = np.random.default_rng([config.seed, 1]).normal(0.0, config.content_noise, told.shape)
    return (told + noise).astype(np.float32)


def ids_of(items: NDArray[np.int64], schema: Schema) -> NDArray:
    """Of item numbers; of an open table any 64 bits."""
    return mixed(items).view(np.int64) if schema.open_ids else items


def _items(config: StreamConfig, rng: np.random.Generator) -> tuple[NDArray, NDArray]:
    """(items,) each: the logits of their own, and their classes."""
    return rng.normal(0.0, config.own_std, config.items), rng.integers(0, CLASSES, config.items)


def _liked(
    rng: np.random.Generator, active: NDArray, popularity: NDArray, of_class: NDArray, liked: NDArray
) -> NDArray[np.int64]:
    """An item for each of the liked classes, mostly of this class."""
    found = rng.choice(active, len(liked), p=_shares(popularity[active]))
    of_taste = rng.random(len(liked)) < 0.7
    for each in range(CLASSES):
        some, members = of_taste & (liked == each), active[of_class[active] == each]
        if len(members):
            found[some] = rng.choice(members, int(some.sum()), p=_shares(popularity[members]))
    return found


def _shares(weights: NDArray) -> NDArray:
    return weights / weights.sum()


def _table(
    config: StreamConfig, schema: Schema, events: NDArray, shown: NDArray, labels: tuple[NDArray, NDArray]
) -> pa.Table:
    lengths, counts = (np.full(config.requests, each) for each in (config.length, config.candidates))
    columns = {
        "user": pa.array(np.arange(config.requests)),
        "history.item": list_column(lengths, ids_of(events, schema)),
        "candidate.item": list_column(counts, ids_of(shown, schema)),
        "candidate.click": list_column(counts, labels[0].astype(np.int8)),
        "candidate.click.oracle": list_column(counts, labels[1].astype(np.float32)),
    }
    types = arrow_schema(schema)
    return pa.table([columns[name].cast(types.field(name).type) for name in types.names], types)
