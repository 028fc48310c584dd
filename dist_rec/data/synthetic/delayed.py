"""A dataset with a planted truth whose labels arrive late, and whose feedback tells more of them than a server knows.

Users visit a few favourite categories. The score of a candidate rises with the share of its category in the history
(weighted by action) and with the quality of the item, and depends on its category and on the user's segment. Its label
is drawn from the score and from a latent value, which feedback shows with noise: how long the item was looked at and
what was visited next (latent.py). The label's own event is never in the feedback. So the best reachable AUC is known
for a model that is asked before a candidate is served, and for a teacher that reads its feedback besides. It is the
setting of self-distillation with privileged feedback (arXiv 2601.20802) in ranking.

A 1 arrives late, as in Chapelle (Modeling Delayed Feedback in Display Advertising, KDD 2014): after an exponential
delay, which is drawn from the law cut at the horizon, so every 1 arrives within it. The delay depends on nothing else,
neither on the latent value nor on the user. Requests are spread evenly in time, so any moment cuts the file into rows
that are final and rows whose labels may still change. Feedback comes within minutes.

B requests of C candidates."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import Field, model_validator

from dist_rec.data.columns import Ints, expand_ranges, list_column, scalar_values
from dist_rec.data.schema import Schema
from dist_rec.data.synthetic.latent import DWELLS, LEAST_NOISE, NEXT_EVENTS, Floats, Latent, label_p_given, shown_mean
from dist_rec.data.synthetic.parts import (
    ACTION_WEIGHT,
    ACTIONS,
    DAY_SECONDS,
    FIRST_SECOND,
    PlantedConfig,
    Tally,
    Timelines,
    ZipfItems,
    auc_or_half,
    draw_actions,
    saturated,
    shares,
    timeline_lengths,
    write_planted,
)
from dist_rec.data.writer import SPLIT_ENDS, in_parts

FAVOURITES = 3  # drawn with repetition, so some users have fewer
FAVOURITE_P = 0.8  # an event of a history is in a favourite category; else in any
FAMILIAR_P = 0.5  # so is a candidate
FAVOURITE_ACTION_P = np.array([0.55, 0.28, 0.12, 0.05])
STRAY_ACTION_P = np.array([0.90, 0.08, 0.015, 0.005])
ITEM_ZIPF = 0.8
LEAD = 2 / 3  # of the time of all requests: how long before the first one histories begin
FEEDBACK_GAP_SECONDS = 120  # mean time between two events of feedback
FEEDBACK_SECONDS = 3_600  # after which no more comes, but for one in a hundred million

# The score: bias + sum of weight * term.
MEAN_SCORE = -2.8  # about; what feedback shows of a score is counted from here
BIAS, HISTORY_WEIGHT, QUALITY_WEIGHT, CATEGORY_WEIGHT, SEGMENT_WEIGHT = -4.4, 3.2, 1.0, 0.6, 0.4


class DelayedConfig(PlantedConfig):
    """Options of `dist-rec data synth --kind delayed`."""

    requests: int = Field(default=60_000, ge=10, description="Requests over all splits.")
    candidates: int = Field(4, ge=1, description="Candidates per request.")
    max_length: int = Field(60, ge=10, description="Longest history, in events.")
    mean_length: int | None = Field(
        None, ge=5, description="Mean history, in events; 24, or 40 % of max_length if less."
    )
    items: int = Field(300, ge=1)
    categories: int = Field(12, ge=2)
    days: float = Field(77, gt=0, le=3_650, description="Days of the requests of train.")
    horizon_days: float = Field(7, gt=0, description="A label of 1 arrives within so many days of the request.")
    mean_delay_days: float = Field(2, gt=0, description="Mean of the exponential law of delays, before it is cut.")
    noise: float = Field(
        0.5, ge=LEAST_NOISE, description="How far feedback is from the latent value, in standard deviations of it."
    )
    shown: float = Field(
        0.0,
        ge=0,
        le=1,
        description="How much of what a server knows of a label feedback shows, too; 0: what it does not.",
    )
    feedback_share: float = Field(1.0, ge=0, le=1, description="Share of the candidates whose feedback is known.")

    @property
    def horizon_seconds(self) -> int:
        return max(1, round(self.horizon_days * DAY_SECONDS))

    @property
    def seconds(self) -> float:
        """The time of the requests of all splits."""
        return self.days * DAY_SECONDS / SPLIT_ENDS["train"]

    @model_validator(mode="after")
    def _check(self) -> "DelayedConfig":
        if self.items < self.categories:
            raise ValueError(
                f"items={self.items}: expected at least one item per category, categories={self.categories}"
            )
        if self.horizon_days >= self.days:
            raise ValueError(
                f"horizon_days={self.horizon_days:g}: expected less than days={self.days:g}, so that rows of train are "
                "final"
            )
        return self


def synthesize_delayed(out: Path, config: DelayedConfig, *, force: bool = False) -> dict[str, Any]:
    """Writes a dataset folder (schema.yaml, stats.json, train, valid, test) and returns the content of stats.json.

    Raises DataError if the folder cannot be written, or replaced (see `staged`).

    Stats per split: rows, candidates, label_rate, mean_length, max_length, feedback_share (of the candidates),
    last_request (seconds) and what is known at that moment: immature_share of the rows, less than a horizon old, and
    arrived_share of the labels of 1. Test also has best_auc (of the true probability given what a server knows),
    best_auc_with_feedback (given the feedback too), popularity_auc and popularity_score."""

    def plant() -> tuple[Ints, Callable[[Ints], Iterator[pa.Table]]]:
        rng = np.random.default_rng(config.seed)
        world = _World(config, rng)
        timelines = _timelines(config, world, rng)
        return _requests(config, timelines, rng), _Truth(config, world, timelines, rng).tables

    return write_planted(out, _schema(config), plant, lambda: _Tally(config), force=force)


class _World:
    """What is the same for all requests: users with their favourites, and what items and categories are."""

    def __init__(self, config: DelayedConfig, rng: np.random.Generator) -> None:
        self.categories = config.categories
        self.segment = rng.integers(0, config.segments, config.num_users)
        self.favourites = rng.integers(0, config.categories, (config.num_users, FAVOURITES))
        self.items = ZipfItems(config.items, config.categories, ITEM_ZIPF, rng)
        self.quality = rng.standard_normal(config.items)  # by id
        self.of_category = rng.standard_normal(config.categories)
        self.of_segment = rng.standard_normal(config.segments)

    def draw_categories(self, user: Ints, favourite_p: float, rng: np.random.Generator) -> Ints:
        """In the shape of `user`: one of the user's favourites, or any."""
        favourite = self.favourites[user, rng.integers(0, FAVOURITES, user.shape)]
        return np.where(rng.random(user.shape) < favourite_p, favourite, rng.integers(0, self.categories, user.shape))


def _timelines(config: DelayedConfig, world: _World, rng: np.random.Generator) -> Timelines:
    mean = config.mean_length or max(5, min(24, round(0.4 * config.max_length)))
    lengths = timeline_lengths(mean, config.max_length, config.num_users, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    user = np.repeat(np.arange(len(lengths)), lengths)
    category = world.draw_categories(user, FAVOURITE_P, rng)
    favourite = (world.favourites[user] == category[:, None]).any(axis=1)
    place = rng.uniform(-LEAD, 1, len(user))
    place[offsets[:-1]] = -LEAD  # so no history is empty
    time = (FIRST_SECOND + config.seconds * place).astype(np.int64)
    return Timelines(
        offsets=offsets,
        item=world.items.draw(category, rng),
        category=category,
        action=draw_actions(favourite, FAVOURITE_ACTION_P, STRAY_ACTION_P, rng.random(len(user))),
        time=time[np.lexsort((time, user))],
    )


def _requests(config: DelayedConfig, timelines: Timelines, rng: np.random.Generator) -> Ints:
    """(requests, 3) user, length of the history, and time, in order of time."""
    user = rng.integers(0, config.num_users, config.requests)
    time = FIRST_SECOND + (np.arange(config.requests) * (config.seconds / config.requests)).astype(np.int64)
    # One ascending key over all users: their timelines lie one after the other.
    stride = int(timelines.time.max()) + 1
    owner = np.repeat(np.arange(config.num_users), np.diff(timelines.offsets))
    before = np.searchsorted(owner * stride + timelines.time, user * stride + time)
    return np.stack([user, before - timelines.offsets[user], time], axis=1)


class _Truth:
    """Draws candidates, labels, delays and feedback, and packs requests into tables."""

    def __init__(self, config: DelayedConfig, world: _World, timelines: Timelines, rng: np.random.Generator) -> None:
        self.config, self.world, self.timelines, self.rng = config, world, timelines, rng
        self.latent = Latent(config.noise, config.categories)

    def tables(self, requests: Ints) -> Iterator[pa.Table]:
        for part in in_parts(requests, requests[:, 1]):
            yield self._table(part)

    def _table(self, requests: Ints) -> pa.Table:
        """The columns of the schema, and for the tally `candidate.convert.with_feedback`, P(label | x, feedback)."""
        user, history, time = requests.T
        rng, events = self.rng, self.timelines
        row, index = expand_ranges(events.offsets[user], history)
        category = self.world.draw_categories(np.tile(user[:, None], self.config.candidates), FAMILIAR_P, rng)
        item = self.world.items.draw(category, rng)
        score = BIAS + QUALITY_WEIGHT * self.world.quality[item] + CATEGORY_WEIGHT * self.world.of_category[category]
        score += SEGMENT_WEIGHT * self.world.of_segment[self.world.segment[user]][:, None]
        weight = ACTION_WEIGHT[events.action[index]]
        score += HISTORY_WEIGHT * saturated(shares(row, events.category[index], weight, category))
        z = rng.standard_normal(score.shape)
        label = rng.random(score.shape) < label_p_given(score, z)
        mean = shown_mean(score, MEAN_SCORE, self.config.shown)
        feedback = self._draw_feedback(item, category, z + mean, time)

        columns = {"user": user, "segment": self.world.segment[user], "time": time}
        for name in ("item", "category", "action", "time"):
            columns[f"history.{name}"] = list_column(history, getattr(events, name)[index])
        truth = self.latent.label_p(score)
        values = {
            "item": item,
            "category": category,
            "convert": label.astype(np.int8),
            "convert.oracle": truth.astype(np.float32),
            "convert.delay": np.where(label, draw_delays(self.config, score.shape, rng), 0),
            "convert.with_feedback": np.where(feedback.count > 0, feedback.label_p(self.latent, score, mean), truth),
            "feedback_events": np.where(feedback.count > 0, feedback.count, -1),
        }
        per_request = np.full(len(user), self.config.candidates)
        columns |= {f"candidate.{name}": list_column(per_request, of.ravel()) for name, of in values.items()}
        return pa.table(columns | feedback.columns())

    def _draw_feedback(self, item: Ints, category: Ints, seen: Floats, time: Ints) -> "_Feedback":
        """Of candidates (B, C), of whose value so much can be `seen`, of requests at `time` (B,)."""
        rng = self.rng
        next_category = self.latent.draw_next_categories(seen, category, rng)
        shape = next_category.shape
        present = rng.random(seen.shape) < self.config.feedback_share
        gap = 1 + rng.exponential(FEEDBACK_GAP_SECONDS, (*seen.shape, 1 + NEXT_EVENTS)).astype(np.int64)
        return _Feedback(
            count=present * (1 + rng.integers(0, NEXT_EVENTS + 1, seen.shape)),
            item=np.concatenate([item[..., None], self.world.items.draw(next_category, rng)], axis=2),
            category=np.concatenate([category[..., None], next_category], axis=2),
            dwell=np.concatenate(
                [self.latent.draw_dwell(seen, rng)[..., None], rng.integers(0, DWELLS, shape)], axis=2
            ),
            time=time[:, None, None] + np.cumsum(gap, axis=2),
        )


@dataclass(frozen=True)
class _Feedback:
    """The first `count` (B, C) of the events (B, C, 1 + NEXT_EVENTS) of each candidate: its own, then what followed."""

    count: Ints
    item: Ints
    category: Ints
    dwell: Ints
    time: Ints

    def columns(self) -> dict[str, pa.Array]:
        there = np.arange(1 + NEXT_EVENTS) < self.count[..., None]
        lengths = self.count.sum(axis=1)
        names = ("item", "category", "dwell", "time")
        return {f"feedback.{name}": list_column(lengths, getattr(self, name)[there]) for name in names}

    def label_p(self, latent: Latent, score: Floats, mean: Floats) -> Floats:
        """P(label | x, feedback) of scores x and what is shown of them (B, C), of candidates that have feedback."""
        there = np.arange(1, 1 + NEXT_EVENTS) < self.count[..., None]
        same = self.category[..., 1:] == self.category[..., :1]
        counts = ((there & which).sum(axis=2) for which in (same, ~same))
        return latent.label_p_with_feedback(score, mean, self.dwell[..., 0], *counts)


def draw_delays(config: DelayedConfig, shape: tuple[int, ...], rng: np.random.Generator) -> Ints:
    """Seconds from 1 to the horizon: the exponential law cut there, rounded up."""
    mean = config.mean_delay_days * DAY_SECONDS
    seconds = -mean * np.log1p(rng.random(shape) * np.expm1(-config.horizon_seconds / mean))
    return np.clip(np.ceil(seconds), 1, config.horizon_seconds).astype(np.int64)


class _Tally(Tally):
    def __init__(self, config: DelayedConfig) -> None:
        super().__init__(config)
        self.config = config
        self.times: list[Ints] = []

    def add(self, table: pa.Table) -> pa.Table:
        self.times.append(scalar_values(table, "time"))
        return super().add(table)

    def summary(self) -> dict[str, Any]:
        label, lengths, time = (
            self.column("convert"),
            np.concatenate(self.lengths["history"]),
            np.concatenate(self.times),
        )
        ago = time[-1] - time
        arrived = self.column("convert.delay") <= np.repeat(ago, self.config.candidates)
        return {
            "rows": len(lengths),
            "candidates": len(label),
            "label_rate": float(label.mean()),
            "mean_length": float(lengths.mean()),
            "max_length": int(lengths.max()),
            "feedback_share": float((self.column("feedback_events") > 0).mean()),
            "last_request": int(time[-1]),
            "immature_share": float((ago < self.config.horizon_seconds).mean()),
            "arrived_share": float(arrived[label == 1].mean()) if label.any() else 0.0,
        }

    def quality(self, train: Tally) -> dict[str, Any]:
        """AUC of the truth without and with feedback, and of the best score that does not use the history."""
        best, popularity, name = self.auc_of_task(train, "convert")
        with_feedback = auc_or_half(self.column("convert.with_feedback"), self.column("convert"))
        found = {"best_auc": best, "best_auc_with_feedback": with_feedback}
        return found | {"popularity_auc": popularity, "popularity_score": name}


def _schema(config: DelayedConfig) -> Schema:
    tree = {
        "name": "synthetic-delayed",
        "tables": {"item": config.items, "category": config.categories, "segment": config.segments},
        "request": {"grouping_key": "user", "time": "time"},
        "context": ["segment"],
        "sequences": [
            {"name": "history", "ids": ["item", "category"], "side": {"action": len(ACTIONS)}, "time": True},
        ],
        "candidate": {
            "ids": ["item", "category"],
            "labels": ["convert"],
            "oracle": True,
            "delayed": {"convert": {"horizon": config.horizon_seconds}},
            "feedback": {
                "ids": ["item", "category"],
                "side": {"dwell": DWELLS},
                "time": True,
                "most": 1 + NEXT_EVENTS,
                "window": FEEDBACK_SECONDS,
            },
        },
        "feature_groups": {
            "segment": ["context.segment"],
            "item": ["candidate.item"],
            "category": ["candidate.category"],
        },
    }
    return Schema.model_validate(tree)
