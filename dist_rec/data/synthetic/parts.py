"""Parts shared by all kinds of synthetic data: options, random draws, statistics and the writer."""

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dist_rec.common.auc import auc
from dist_rec.common.strict import Strict
from dist_rec.data.columns import Ints, ragged_values
from dist_rec.data.schema import Schema
from dist_rec.data.writer import split_in_order, staged, write_schema, write_split

ACTIONS = ("view", "click", "cart", "buy")
ACTION_WEIGHT = np.array([1.0, 2.0, 3.0, 4.0])
FIRST_SECOND = 1_700_000_000
DAY_SECONDS = 86_400
SHARE_SCALE = 0.2  # share at which its term reaches 63 % of its weight


class PlantedConfig(Strict):
    """Options of every kind of synthetic data. Train, valid and test are 80, 10 and 10 % of the requests, by time."""

    requests: int = Field(ge=10, description="Requests over all splits.")
    candidates: int = Field(ge=1, description="Candidates per request.")
    max_length: int = Field(ge=10)
    mean_length: int | None = Field(None, ge=5)
    users: int | None = Field(None, ge=1, description="Users; one per 5 requests by default.")
    items: int = Field(ge=1)
    segments: int = Field(8, ge=1, description="Values of the users' context field `segment`.")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check_lengths(self) -> "PlantedConfig":
        if self.mean_length is not None and self.mean_length >= self.max_length:
            raise ValueError(f"mean_length={self.mean_length}: expected less than max_length={self.max_length}")
        return self

    @property
    def num_users(self) -> int:
        return self.users or max(1, self.requests // 5)


def zipf_cdf(count: int, exponent: float) -> NDArray[np.float64]:
    """(count,) cumulative probabilities of ranks 0, 1, ... under Zipf's law."""
    weight = np.arange(1, count + 1, dtype=np.float64) ** -exponent
    cdf = np.cumsum(weight / weight.sum())
    cdf[-1] = 1.0
    return cdf


def saturated(share: NDArray[np.float64]) -> NDArray[np.float64]:
    """A share from 0 to 1 as a term of a probability: the first bit counts most."""
    return 1 - np.exp(-share / SHARE_SCALE)


def sigmoid(score: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-score))


@dataclass(frozen=True)
class Timelines:
    """Events of all users, jagged: user after user, oldest first."""

    offsets: Ints  # (users + 1,)
    item: Ints
    category: Ints
    action: Ints
    time: Ints

    def before(self, users: Ints, times: Ints) -> Ints:
        """(B,) events of each user that are before a time."""
        span = int(self.time.max(initial=0)) + 2  # users apart: one search in one ordered array
        of = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        place = np.searchsorted(of * span + self.time, users * span + np.minimum(times, span - 1))
        return place - self.offsets[users]


def timeline_lengths(mean_length: int, max_length: int, users: int, rng: np.random.Generator) -> Ints:
    """(users,) log-normal; requests are in the last 60 % of a timeline, so the mean history is about 0.7 as long."""
    lengths = rng.lognormal(np.log(mean_length / 0.7) - 0.5, 1.0, users)
    return np.clip(lengths, 5, max_length).astype(np.int64)


def event_times(offsets: Ints, new_session: NDArray[np.bool_], session_events: int, rng: np.random.Generator) -> Ints:
    """(events,) seconds; every user is active for about 60 days and starts within the first 120."""
    lengths = np.diff(offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    gap_seconds = 60 * DAY_SECONDS / np.maximum(1, lengths / session_events)
    step = rng.exponential(60, len(user)) + new_session * rng.exponential(gap_seconds[user])
    elapsed = np.cumsum(step)
    start = rng.uniform(0, 120 * DAY_SECONDS, len(lengths)) - elapsed[offsets[:-1]]
    return (FIRST_SECOND + start[user] + elapsed).astype(np.int64)


def draw_requests(offsets: Ints, times: Ints, requests: int, rng: np.random.Generator) -> Ints:
    """(requests, 3) user, length of the history, and time, in order of time."""
    user = rng.integers(0, len(offsets) - 1, requests)
    lengths = np.diff(offsets)[user]
    history = np.ceil(lengths * rng.uniform(0.4, 1.0, requests)).astype(np.int64)
    last = times[offsets[user] + history - 1]
    time = last + 1 + rng.exponential(300, requests).astype(np.int64)
    return np.stack([user, history, time], axis=1)[np.argsort(time, kind="stable")]


def auc_or_half(score: NDArray, label: NDArray) -> float:
    """Exact AUC; 0.5 if the labels are all alike."""
    return 0.5 if not len(label) or label.min() == label.max() else auc(score, label)


def popularity_auc(
    train_item: Ints,
    train_label: NDArray,
    test_item: Ints,
    test_label: NDArray,
    items: int,
) -> tuple[float, str]:
    """AUC on test of the better score of an item, and its name: smoothed rate of ones in train, or count there.

    Items and labels of all candidates of a split are (N,) each; `items` is the number of ids.
    """
    shown = np.bincount(train_item, minlength=items)
    mean = train_label.mean() if len(train_label) else 0.0
    rate = (np.bincount(train_item, train_label, items) + 10 * mean) / (shown + 10)
    rates, counts = auc_or_half(rate[test_item], test_label), auc_or_half(shown[test_item], test_label)
    scores = {"click rate in train": rates, "count in train": counts}
    best = max(scores, key=scores.__getitem__)
    return scores[best], best


class ZipfItems:
    """Item ids by kind (category, brand) and popularity.

    An id is `kind + kinds * rank` before a permutation, so that ids carry no meaning; rank 0 is the most visited."""

    def __init__(self, items: int, kinds: int, exponent: float, rng: np.random.Generator) -> None:
        self.kinds = kinds
        self.ids = rng.permutation(items)
        self._rank_cdf = zipf_cdf(items // kinds, exponent)

    def draw(self, kind: Ints, rng: np.random.Generator) -> Ints:
        """One item of each kind, in the shape of `kind`."""
        rank = np.searchsorted(self._rank_cdf, rng.random(kind.shape), side="right")
        return self.ids[kind + self.kinds * rank]

    def kind_of(self, items: Ints) -> Ints:
        """The kind of each item."""
        return np.argsort(self.ids)[items] % self.kinds


def draw_actions(inside: NDArray[np.bool_], inside_p: NDArray, outside_p: NDArray, draw: NDArray) -> Ints:
    """(N,) actions by `inside_p` where `inside` (N,) is true, else by `outside_p`; `draw` (N,) in [0, 1)."""
    return np.where(inside, *(np.searchsorted(np.cumsum(p)[:-1], draw, side="right") for p in (inside_p, outside_p)))


def shares(row: Ints, kind: Ints, weight: NDArray, wanted: Ints) -> NDArray[np.float64]:
    """(B, candidates) share of each wanted kind in the weight of its request's events.

    The N events have a request `row`, a `kind` and a `weight`, all (N,); `wanted` is (B, candidates)."""
    total = np.maximum(np.bincount(row, weight, len(wanted)), 1.0)
    same = (np.bincount(row, weight * (kind == column[row]), len(wanted)) for column in wanted.T)
    return np.stack([of / total for of in same], axis=1)


class Tally(ABC):
    """Collects what stats.json has about a split while the split is written."""

    def __init__(self, config: PlantedConfig) -> None:
        self.items = config.items
        self.parts: list[dict[str, NDArray]] = []
        self.lengths: dict[str, list[Ints]] = {}

    def add(self, table: pa.Table) -> pa.Table:
        """Counts a table and returns it."""
        names = [name for name in table.column_names if name.startswith("candidate.")]
        self.parts.append({name: ragged_values(table, name).values for name in names})
        for name in table.column_names:
            if name.endswith(".time"):
                lengths = ragged_values(table, name).lengths
                self.lengths.setdefault(name.removesuffix(".time"), []).append(lengths)
        return table

    @abstractmethod
    def summary(self) -> dict[str, Any]:
        """Sizes and rates of the split."""

    @abstractmethod
    def quality(self, train: Any) -> dict[str, Any]:
        """AUCs on this split; `train` is the tally of the training split."""

    def column(self, name: str, given: str | None = None) -> NDArray:
        """A column of the candidates; with `given`, only of candidates with 1 in that column."""
        values = np.concatenate([part[f"candidate.{name}"] for part in self.parts])
        return values if given is None else values[self.column(given) == 1]

    def auc_of_task(self, train: "Tally", task: str, given: str | None = None) -> tuple[float, float, str]:
        """AUC of the truth of a task, and what `popularity_auc` returns for it."""
        item, label = self.column("item", given), self.column(task, given)
        best = auc_or_half(self.column(f"{task}.oracle", given), label)
        return best, *popularity_auc(train.column("item", given), train.column(task, given), item, label, self.items)


def write_planted(
    out: Path,
    schema: Schema,
    plant: Callable[[], tuple[Ints, Callable[[Ints], Iterable[pa.Table]]]],
    tally: Callable[[], Tally],
    *,
    force: bool,
    files: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Writes a dataset folder with stats.json, and text `files` by name, and returns the content of stats.json.

    `plant` draws the requests (in order of time) and returns them with a function that makes tables of a part.
    Raises DataError if the folder cannot be written, or replaced (see `staged`)."""
    with staged(out, force=force) as folder:
        requests, tables = plant()
        write_schema(folder, schema)
        tallies: dict[str, Tally] = {}
        for name, part in split_in_order(requests).items():
            tallies[name] = tally()
            write_split(folder / name, map(tallies[name].add, tables(part)), schema)
        stats = {name: of.summary() for name, of in tallies.items()}
        stats["test"] |= tallies["test"].quality(tallies["train"])
        (folder / "stats.json").write_text(json.dumps(stats, indent=2) + "\n")
        for name, text in (files or {}).items():
            (folder / name).write_text(text)
    return stats
