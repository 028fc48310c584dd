"""A dataset with a planted truth that crosses three behaviour sequences: clicks, searches and a feed.

Every user clicks items of a few topics of interest, and each topic satisfies that user or does not. Clicks of a topic
that satisfies end in carts and buys, other clicks in views. A request has a **scene**, which selects an **intent**: the
topic of most of the newest searches (scene 0), or of most of the liked ones among the newest events of the feed (scene
1). The click probability of a candidate rises with how far the user's clicks *of the intent's topic* went. It also
rises a little with the share of its brand among the clicks, with its quality and with the taste of the user's segment.
A clicked candidate converts with a probability that rises with its brand's share among all carts and buys, and with its
quality.

So a model has to read the long sequence at a place that only a short sequence shows, and the context selects the short
sequence. A model that sums up every sequence for itself gets only the mean over all topics, unless it carries what
happened in every topic to where the intent is known. The crossed term is equal for all candidates of a request: it
moves AUC over all, and grouped AUC only as far as a group holds several requests. Clicks grow with the user from
request to request. Searches and feed are drawn for each request."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dist_rec.data.columns import Ints, expand_ranges, list_column
from dist_rec.data.id_field import IdField
from dist_rec.data.owners import CandidateSchema, RequestSchema, SequenceSchema
from dist_rec.data.schema import Schema
from dist_rec.data.synthetic.parts import (
    ACTION_WEIGHT,
    ACTIONS,
    DAY_SECONDS,
    PlantedConfig,
    Tally,
    ZipfItems,
    auc_or_half,
    draw_actions,
    draw_requests,
    event_times,
    saturated,
    shares,
    sigmoid,
    timeline_lengths,
    write_planted,
)

INTERESTS = 6  # topics of a user
CLICK_SESSION = 6  # clicks in a row that are about one interest, in the mean
STRAY_CLICK_P = 0.05  # about any topic
PREFERRED_P = 0.8  # a click shows the preferred brand of its topic
SATISFIED_P = 0.5  # of a topic and a user
SATISFIED_ACTION_P = np.array([0.05, 0.15, 0.30, 0.50])
OTHER_ACTION_P = np.array([0.85, 0.10, 0.03, 0.02])
ITEM_ZIPF = 0.8
EMPTY_P = 0.08  # of searches, and of feeds
FEED_SCENE_P = 0.25
ABOUT_P = 0.95  # a search, or a liked event of the feed, is about the topic of its session; others are about any
FAMILIAR_P = 0.6  # a candidate's brand is preferred in one of the interests; else any
REQUESTS_PER_CHUNK = 10_000
TASKS = {"click": None, "conversion": "click"}  # task -> the label it is given

# The probabilities: sigmoid(bias + sum of weight * term).
CLICK_BIAS, SATISFIED_WEIGHT, BRAND_WEIGHT, QUALITY_WEIGHT, SEGMENT_WEIGHT = -5.0, 10.0, 0.5, 0.1, 0.1
CONVERSION_BIAS, LOYALTY_WEIGHT, CONVERSION_QUALITY_WEIGHT = -1.8, 3.0, 0.6


@dataclass(frozen=True)
class _Short:
    """A short sequence."""

    longest: int
    mean: int
    session: int  # events in a row about one topic; the newest session shows the intent
    flag_p: float
    flagged_only: bool  # events without the flag do not count


SEARCH = _Short(longest=20, mean=8, session=8, flag_p=0.4, flagged_only=False)  # clicked
FEED = _Short(longest=30, mean=14, session=12, flag_p=0.5, flagged_only=True)  # like


class ThreeConfig(PlantedConfig):
    """Options of `dist-rec data synth --kind three`."""

    requests: int = Field(default=120_000, ge=10, description="Requests over all splits.")
    candidates: int = Field(2, ge=1, description="Candidates per request.")
    max_length: int = Field(300, ge=10, description="Longest sequence of clicks.")
    mean_length: int | None = Field(
        None, ge=5, description="Mean number of clicks; 24, or a fifth of max_length if less."
    )
    items: int = Field(500, ge=1)
    topics: int = Field(12, ge=INTERESTS)
    brands: int = Field(16, ge=2)
    queries: int = Field(24, ge=1)
    channels: int = Field(24, ge=1)

    @model_validator(mode="after")
    def _check(self) -> "ThreeConfig":
        for name, per in (("items", "brands"), ("queries", "topics"), ("channels", "topics")):
            if (have := getattr(self, name)) < (need := getattr(self, per)):
                raise ValueError(f"{name}={have}: expected at least one per {per.rstrip('s')}, {per}={need}")
        return self


def synthesize_three(out: Path, config: ThreeConfig, *, force: bool = False) -> dict[str, Any]:
    """Writes a dataset folder (schema.yaml, stats.json, train, valid, test) and returns the content of stats.json.

    Raises DataError if the folder cannot be written, or replaced (see `staged`).

    Stats per split: rows, candidates, label_rate per task (where defined), mean_length and max_length per sequence.
    Test also has, per task, best_auc (of the true probability), popularity_auc and popularity_score. For the click it
    has no_interaction_auc: the AUC of its score with the mean over all topics in place of the intent's topic. That
    score needs no crossing. It is a mark to compare with, not a bound for models that do not cross."""

    def plant() -> tuple[Ints, Callable[[Ints], Iterator[pa.Table]]]:
        rng = np.random.default_rng(config.seed)
        world = _World(config, rng)
        clicks = _clicks(config, world, rng)
        requests = draw_requests(clicks.offsets, clicks.time, config.requests, rng)
        return requests, _Truth(config, world, clicks, rng).tables

    return write_planted(out, _schema(config), plant, lambda: _Tally(config), force=force)


class _World:
    """What is the same for all requests: users with their interests and brands, and what items, queries and channels
    are."""

    def __init__(self, config: ThreeConfig, rng: np.random.Generator) -> None:
        users, topics = config.num_users, config.topics
        self.segment = rng.integers(0, config.segments, users)
        self.interests = np.argsort(rng.random((users, topics)), axis=1)[:, :INTERESTS]  # (users, 6) topics that differ
        self.satisfied = rng.random((users, topics)) < SATISFIED_P
        self.preferred = rng.integers(0, config.brands, (users, topics))
        self.taste = rng.standard_normal((config.segments, config.brands))
        self.quality = rng.standard_normal(config.items)
        sizes = {"query": config.queries, "channel": config.channels}
        self.topics_of = {name: rng.permutation(size) % topics for name, size in sizes.items()}
        self.items = ZipfItems(config.items, config.brands, ITEM_ZIPF, rng)

    def draw_of_topic(self, name: str, topic: Ints, rng: np.random.Generator) -> Ints:
        """A query or channel of each topic, all alike."""
        order = np.argsort(self.topics_of[name], kind="stable")
        count = np.bincount(self.topics_of[name])
        first = np.cumsum(count) - count
        return order[first[topic] + (rng.random(len(topic)) * count[topic]).astype(np.int64)]


@dataclass(frozen=True)
class _Clicks:
    """Clicks of all users, jagged: user after user, oldest first."""

    offsets: Ints  # (users + 1,)
    item: Ints
    topic: Ints
    brand: Ints
    action: Ints
    time: Ints


def _clicks(config: ThreeConfig, world: _World, rng: np.random.Generator) -> _Clicks:
    mean = config.mean_length or max(5, min(24, config.max_length // 5))
    lengths = timeline_lengths(mean, config.max_length, config.num_users, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    user, index = np.repeat(np.arange(len(lengths)), lengths), np.arange(offsets[-1])
    new_session = (rng.random(len(index)) < 1 / CLICK_SESSION) | (index == offsets[user])
    slot = rng.integers(0, INTERESTS, len(index))[np.maximum.accumulate(np.where(new_session, index, 0))]
    stray = rng.random(len(index)) < STRAY_CLICK_P
    topic = np.where(stray, rng.integers(0, config.topics, len(index)), world.interests[user, slot])
    preferred = rng.random(len(index)) < PREFERRED_P
    brand = np.where(preferred, world.preferred[user, topic], rng.integers(0, config.brands, len(index)))
    draw = rng.random(len(index))
    return _Clicks(
        offsets=offsets,
        item=world.items.draw(brand, rng),
        topic=topic,
        brand=brand,
        action=draw_actions(world.satisfied[user, topic], SATISFIED_ACTION_P, OTHER_ACTION_P, draw),
        time=event_times(offsets, new_session, CLICK_SESSION, rng),
    )


@dataclass(frozen=True)
class _Session:
    """A short sequence of B requests, oldest first."""

    lengths: Ints  # (B,)
    topic: Ints  # (N,)
    flag: NDArray[np.bool_]  # (N,) clicked, liked
    time: Ints  # (N,)
    intent: Ints  # (B,) the topic of most of the newest events that count, -1 if there are none


class _Truth:
    """Draws the short sequences, candidates and labels, and packs requests into tables."""

    def __init__(self, config: ThreeConfig, world: _World, clicks: _Clicks, rng: np.random.Generator) -> None:
        self.config, self.world, self.clicks, self.rng = config, world, clicks, rng

    def tables(self, requests: Ints) -> Iterator[pa.Table]:
        for start in range(0, len(requests), REQUESTS_PER_CHUNK):
            yield self._table(requests[start : start + REQUESTS_PER_CHUNK])

    def _table(self, requests: Ints) -> pa.Table:
        """The columns of the schema, and for the tally `candidate.click.mean`, a click's score without the intent."""
        user, history, time = requests.T
        world, clicks, rng = self.world, self.clicks, self.rng
        row, events = expand_ranges(clicks.offsets[user], history)
        slots = np.argsort(rng.random((len(user), INTERESTS)), axis=1)[:, :2]  # searches and feed differ
        about = np.take_along_axis(world.interests[user], slots, axis=1)
        searches = self._session(SEARCH, about[:, 0], requests)
        feed = self._session(FEED, about[:, 1], requests)
        scene = (rng.random(len(user)) < FEED_SCENE_P).astype(np.int64)
        brand = self._draw_candidate_brands(user)
        item = world.items.draw(brand, rng)

        action, everywhere = clicks.action[events], np.ones(len(row), dtype=bool)
        about_intent = clicks.topic[events] == np.where(scene == 0, searches.intent, feed.intent)[row]
        rest = CLICK_BIAS + QUALITY_WEIGHT * world.quality[item]
        rest += SEGMENT_WEIGHT * world.taste[world.segment[user][:, None], brand]
        rest += BRAND_WEIGHT * saturated(shares(row, clicks.brand[events], ACTION_WEIGHT[action], brand))
        crossed, mean = (
            rest + SATISFIED_WEIGHT * _how_far(row, action, of, len(user)) for of in (about_intent, everywhere)
        )
        bought = clicks.action[events] >= ACTIONS.index("cart")
        loyalty = saturated(shares(row, clicks.brand[events], bought.astype(np.float64), brand))
        converts = CONVERSION_BIAS + LOYALTY_WEIGHT * loyalty + CONVERSION_QUALITY_WEIGHT * world.quality[item]
        truth = {"click": sigmoid(crossed), "conversion": sigmoid(converts)}
        label = {task: rng.random(item.shape) < p.astype(np.float32) for task, p in truth.items()}
        label["conversion"] &= label["click"]

        columns = {"user": user, "segment": world.segment[user], "scene": scene, "time": time}
        for name in ("item", "topic", "brand", "action", "time"):
            columns[f"clicks.{name}"] = list_column(history, getattr(clicks, name)[events])
        for owner, session, field, flag in (
            ("search", searches, "query", "clicked"),
            ("feed", feed, "channel", "like"),
        ):
            ids = world.draw_of_topic(field, session.topic, rng)
            columns[f"{owner}.{field}"] = list_column(session.lengths, ids)
            columns[f"{owner}.topic"] = list_column(session.lengths, session.topic)
            columns[f"{owner}.{flag}"] = list_column(session.lengths, session.flag.astype(np.int8))
            columns[f"{owner}.time"] = list_column(session.lengths, session.time)
        values = {"item": item, "brand": brand, "click.mean": mean}
        values |= {task: of.astype(np.int8) for task, of in label.items()}
        values |= {f"{task}.oracle": of.astype(np.float32) for task, of in truth.items()}
        per_request = np.full(len(user), self.config.candidates)
        return pa.table(
            columns | {f"candidate.{name}": list_column(per_request, of.ravel()) for name, of in values.items()}
        )

    def _session(self, kind: _Short, focus: Ints, requests: Ints) -> _Session:
        """The newest `kind.session` events are about `focus` (B,), older sessions about another interest each."""
        rng = self.rng
        user, _, time = requests.T
        lengths = np.minimum(1 + rng.poisson(kind.mean, len(user)), kind.longest)
        lengths[rng.random(len(user)) < EMPTY_P] = 0
        row, place = expand_ranges(np.zeros_like(lengths), lengths)
        back = lengths[row] - 1 - place  # 0 is the newest
        number = back // kind.session
        slots = rng.integers(0, INTERESTS, (len(user), kind.longest // kind.session + 1))
        topic = np.where(number == 0, focus[row], self.world.interests[user[row], slots[row, number]])
        flag = rng.random(len(row)) < kind.flag_p
        stray = (rng.random(len(row)) >= ABOUT_P) | (~flag & kind.flagged_only)
        topic = np.where(stray, rng.integers(0, self.config.topics, len(row)), topic)
        counts = (number == 0) & (flag | (not kind.flagged_only))
        # Minutes within a session, days between sessions, never after the request.
        ago = (60 * (back + 1) + DAY_SECONDS * number + rng.integers(0, 60, len(row))).astype(np.int64)
        intent = _most(row, topic, counts, back, (len(user), self.config.topics))
        return _Session(lengths, topic, flag, time[row] - ago, intent)

    def _draw_candidate_brands(self, user: Ints) -> Ints:
        """(B, candidates): the brand preferred in one of the user's interests, or any."""
        rng = self.rng
        shape = (len(user), self.config.candidates)
        topic = np.take_along_axis(self.world.interests[user], rng.integers(0, INTERESTS, shape), axis=1)
        familiar = rng.random(shape) < FAMILIAR_P
        preferred = self.world.preferred[user[:, None], topic]
        return np.where(familiar, preferred, rng.integers(0, self.config.brands, shape))


def _how_far(row: Ints, action: Ints, of: NDArray[np.bool_], requests: int) -> NDArray[np.float64]:
    """(B, 1) mean action, from 0 (views) to 1 (buys), of the clicks marked in `of` (N,) and one click of 1/3 more."""
    count, total = np.bincount(row, of, requests), np.bincount(row, of * action, requests)
    return ((total + 1) / (count + 1) / (len(ACTIONS) - 1))[:, None]


def _most(row: Ints, topic: Ints, counts: NDArray[np.bool_], back: Ints, shape: tuple[int, int]) -> Ints:
    """(B,) the topic of most events that count, the newest of equals; -1 without such events. `shape` (B, topics)."""
    # Newer events weigh a little more, all together less than half an event.
    weight = counts * (1.0 + 2.0 ** -(back + 3.0))
    votes = np.bincount(np.ravel_multi_index((row, topic), shape), weight, shape[0] * shape[1]).reshape(shape)
    return np.where(votes.any(1), votes.argmax(1), -1)


class _Tally(Tally):
    def summary(self) -> dict[str, Any]:
        lengths = {owner: np.concatenate(parts) for owner, parts in self.lengths.items()}
        click, conversion = self.column("click"), self.column("conversion", "click")
        return {
            "rows": len(lengths["clicks"]),
            "candidates": len(click),
            "label_rate": {
                "click": float(click.mean()),
                "conversion": float(conversion.mean()) if len(conversion) else 0.0,
            },
            "mean_length": {owner: float(of.mean()) for owner, of in lengths.items()},
            "max_length": {owner: int(of.max()) for owner, of in lengths.items()},
        }

    def quality(self, train: Tally) -> dict[str, Any]:
        """AUC per task of the truth and of popularity, and of the click without its intent."""
        of_task = {task: self.auc_of_task(train, task, given) for task, given in TASKS.items()}
        names = ("best_auc", "popularity_auc", "popularity_score")
        values = {name: {task: of[index] for task, of in of_task.items()} for index, name in enumerate(names)}
        click = auc_or_half(self.column("click.mean"), self.column("click"))
        return values | {"no_interaction_auc": {"click": click}}


def _schema(config: ThreeConfig) -> Schema:
    def fields(*names: str) -> list[IdField]:
        return [IdField(name=name, table=name) for name in names]

    return Schema(
        name="synthetic-three",
        tables={name: getattr(config, f"{name}s") for name in ("item", "topic", "brand", "channel", "segment")}
        | {"query": config.queries, "user": config.num_users, "scene": 2},
        request=RequestSchema(grouping_key="user", time="time"),
        context=fields("user", "segment", "scene"),
        sequences=[
            SequenceSchema(
                name="clicks", ids=fields("item", "topic", "brand"), side={"action": len(ACTIONS)}, time=True
            ),
            SequenceSchema(name="search", ids=fields("query", "topic"), side={"clicked": 2}, time=True),
            SequenceSchema(name="feed", ids=fields("channel", "topic"), side={"like": 2}, time=True),
        ],
        candidate=CandidateSchema(
            ids=fields("item", "brand"), labels=["click", "conversion"], given={"conversion": "click"}, oracle=True
        ),
        feature_groups={
            "user": ["context.user", "context.segment"],
            "scene": ["context.scene"],
            "item": ["candidate.item"],
            "brand": ["candidate.brand"],
        },
    )
