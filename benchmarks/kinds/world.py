"""Requests whose label has one known term for each kind of feature, and the best AUC with any of them.

The logit of a click is BASE + SPREAD * (t_category + the sum of the terms of KINDS). All terms have the spread 1 and
are independent of each other, and items of validation and test are new, so that an id alone tells nothing of tags and
vector. So for one who does not know some of the terms the sum of the others is still in the order of the probability:
its AUC is the best that is left.

- price: a bump over the price of the candidate, which is neither in a sequence nor bound to the item
- paid: the mean of the price paid, on a log scale, over the newest NEWEST events
- tags: the mean of the weights of the item's tags, 1 to 4 of TAGS
- vector: a fixed direction of the item's vector
- hour: a cosine over the time of day

The segment of a user tells nothing. With it every arm has a token of the user, and all models are alike.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.kinds.arms import CYCLIC
from dist_rec.common.auc import auc
from dist_rec.data import write_attributes
from dist_rec.data.columns import list_column
from dist_rec.data.fit import fit_dataset
from dist_rec.data.schema import Schema
from dist_rec.data.writer import write_schema, write_split

BASE, SPREAD = -1.0, 0.6
KINDS = {
    "price": "candidate.price",
    "paid": "history.paid",
    "tags": "attributes.item.tags",
    "vector": "attributes.item.vector",
    "hour": CYCLIC,
}
CATEGORIES, TAGS, SEGMENTS, VECTOR, NEWEST = 24, 40, 8, 8, 4
BUMP = 0.5  # its width, in standard deviations of the log of the price
BEST_HOUR, HOUR, DAY, DAYS = 20, 3600, 86_400, 28
FIRST_SECOND = 1_700_006_400  # a midnight, UTC


@dataclass(frozen=True)
class WorldConfig:
    """Requests of the splits; items of which the last `new` are the candidates of validation and test."""

    train: int = 36_000
    valid: int = 1_000
    test: int = 8_000
    length: int = 12
    candidates: int = 4
    items: int = 8_000
    new: int = 2_000
    seed: int = 1


@dataclass(frozen=True)
class Truth:
    """Of the candidates of the test split: (N,) labels, and (N,) terms of the logit by name."""

    labels: NDArray
    terms: Mapping[str, NDArray]

    def best_auc(self, kinds: Collection[str]) -> float:
        """Of one who knows categories and these kinds."""
        return auc(sum((self.terms[name] for name in ("category", *kinds)), np.zeros(len(self.labels))), self.labels)


def schema_of(config: WorldConfig) -> Schema:
    ids = ["item", "category"]
    return Schema.model_validate(
        {
            "name": "kinds",
            "tables": {"item": config.items, "category": CATEGORIES, "tag": TAGS, "segment": SEGMENTS},
            "request": {"grouping_key": "user", "time": "time", "cyclic": True},
            "context": [{"name": "segment", "table": "segment"}],
            "sequences": [{"name": "history", "ids": ids, "numbers": {"paid": {"scale": "log"}}}],
            "candidate": {"ids": ids, "numbers": {"price": {"scale": "log"}}, "labels": ["click"]},
            "attributes": {"item": {"tags": {"list": "tag"}, "vector": {"vector": VECTOR}}},
        }
    )


def write_world(folder: Path, config: WorldConfig) -> Truth:
    """A dataset whose numbers are fitted, and the truth of its test split."""
    rng, schema = np.random.default_rng(config.seed), schema_of(config)
    items = _Items(config.items, rng)
    truth = Truth(np.zeros(0), {})
    for number, (split, requests) in enumerate(
        (("train", config.train), ("valid", config.valid), ("test", config.test))
    ):
        first = 0 if split == "train" else config.items - config.new
        last = config.items - config.new if split == "train" else config.items
        table, truth = _split(
            items, config, requests, rng.integers(first, last, requests * config.candidates), rng, number
        )
        write_split(folder / split, table, schema)
    write_schema(folder, schema)
    write_attributes(folder, schema, "item", {"tags": items.tags, "vector": items.vectors})
    fit_dataset(folder)
    return truth


class _Items:
    """What is known of items, and the terms of each: (items,) of spread 1."""

    def __init__(self, items: int, rng: np.random.Generator) -> None:
        self.category = rng.integers(0, CATEGORIES, items)
        self.tags = [rng.choice(TAGS, count, replace=False) for count in rng.integers(1, 5, items)]
        self.vectors = rng.normal(size=(items, VECTOR))
        weights, of_categories = rng.normal(size=TAGS), rng.normal(size=CATEGORIES)
        direction = rng.normal(size=VECTOR)
        self.terms = {
            "category": standard(of_categories[self.category]),
            "tags": standard(np.array([weights[of].mean() for of in self.tags])),
            "vector": standard(self.vectors @ direction),
        }


def _split(
    items: _Items, config: WorldConfig, requests: int, shown: NDArray, rng: np.random.Generator, number: int
) -> tuple[pa.Table, Truth]:
    """Requests with the candidates `shown`, in the time after that of the splits before, `number` of them."""
    events = rng.integers(0, config.items - config.new, requests * config.length)
    price, paid = rng.normal(size=len(shown)), rng.normal(size=(requests, config.length))
    time = np.sort(rng.integers(0, DAYS * DAY, requests)) + FIRST_SECOND + number * DAYS * DAY
    hour = (time % DAY) / HOUR
    terms = {name: of[shown] for name, of in items.terms.items()}
    terms["price"] = standard(np.exp(-0.5 * (price / BUMP) ** 2))
    of_requests = {
        "paid": standard(paid[:, -NEWEST:].mean(axis=1)),
        "hour": standard(np.cos(2 * np.pi * (hour - BEST_HOUR) / 24)),
    }
    terms |= {name: np.repeat(of, config.candidates) for name, of in of_requests.items()}
    probability = 1 / (1 + np.exp(-(BASE + SPREAD * sum(terms.values(), np.zeros(len(shown))))))
    labels = (rng.random(len(shown)) < probability).astype(np.int8)
    lengths, counts = (np.full(requests, each) for each in (config.length, config.candidates))
    columns = {
        "user": pa.array(np.arange(requests)),
        "time": pa.array(time),
        "segment": pa.array(rng.integers(0, SEGMENTS, requests)),
        "history.item": list_column(lengths, events),
        "history.category": list_column(lengths, items.category[events]),
        "history.paid": list_column(lengths, money(paid.ravel())),
        "candidate.item": list_column(counts, shown),
        "candidate.category": list_column(counts, items.category[shown]),
        "candidate.price": list_column(counts, money(price)),
        "candidate.click": list_column(counts, labels),
    }
    return pa.table(columns), Truth(labels, terms)


def standard(values: NDArray) -> NDArray:
    """Mean 0 and spread 1."""
    return (values - values.mean()) / values.std()


def money(values: NDArray) -> NDArray[np.float32]:
    """A price of each standardised value: log-normal, about 20 in the middle."""
    return np.exp(3 + 0.8 * values).astype(np.float32)
