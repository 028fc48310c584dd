"""A dataset with a planted truth: labels are drawn from known probabilities, so the best reachable AUC is known.

Users visit in sessions. A session has one focus category out of the user's few interests, and interests drift from era
to era. Items of a category follow Zipf's law, and some events repeat a recent item. The click probability of a
candidate rises with the share of its category among the newest events, and separately with its share among the older
events (both weighted by action). It also rises with the quality of the item and depends on the user's segment.

With `forget_share`, some categories are a domain of their own that a run may be asked to forget. Users have interests
in it as in the others, some much and many none, and its events lie between all other events of a session."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dist_rec.data.columns import Ints, expand_ranges, list_column, ragged_values
from dist_rec.data.id_field import IdField
from dist_rec.data.owners import CandidateSchema, RequestSchema, SequenceSchema
from dist_rec.data.schema import Schema
from dist_rec.data.synthetic.parts import (
    ACTION_WEIGHT,
    ACTIONS,
    PlantedConfig,
    Tally,
    Timelines,
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
    zipf_cdf,
)
from dist_rec.data.writer import in_parts

FOCUS_ACTION_P = np.array([0.55, 0.28, 0.12, 0.05])  # inside the session's focus category
STRAY_ACTION_P = np.array([0.90, 0.08, 0.015, 0.005])
INTEREST_P = np.array([0.45, 0.25, 0.18, 0.12])  # share of a user's sessions per interest
ERA_EVENTS = 40
KEEP_INTEREST_P = 0.6  # from one era to the next
SESSION_EVENTS = 8
STRAY_P = 0.15  # events outside the session's focus
REVISIT_P = 0.3
REVISIT_EVENTS = 15  # mean distance to the event that is repeated
RECENT_EVENTS = 20  # "newest events" of the click probability
FORGET_CATEGORIES = 0.25  # share of the categories that are the forget domain
FORGET_SPREAD = 2.0  # of the users' shares of such events: Beta(share * spread, (1 - share) * spread)
FORGET_FILE = "forget_categories.txt"
ITEM_ZIPF = 1.0
CATEGORY_ZIPF = 0.4

# The click probability: sigmoid(bias + sum of weight * term), terms in the order of `Truth._table`.
BIAS, RECENT_WEIGHT, OLD_WEIGHT, QUALITY_WEIGHT, SEGMENT_WEIGHT = -3.2, 3.4, 3.0, 0.8, 0.35


class SynthConfig(PlantedConfig):
    """Options of `dist-rec data synth`."""

    requests: int = Field(default=40_000, ge=10, description="Requests over all splits.")
    candidates: int = Field(4, ge=1, description="Candidates per request.")
    max_length: int = Field(1_000, ge=10, description="Longest history, in events.")
    mean_length: int | None = Field(None, ge=5, description="Mean history, in events; 12 % of max_length by default.")
    items: int = Field(10_000, ge=1)
    categories: int = Field(16, ge=2)
    forget_share: float = Field(0.0, ge=0, lt=1, description="Mean share of events of the forget domain; 0: none.")

    @property
    def forget_categories(self) -> int:
        """The last so many categories are the forget domain."""
        return max(1, round(FORGET_CATEGORIES * self.categories)) if self.forget_share else 0

    @property
    def retain_categories(self) -> int:
        return self.categories - self.forget_categories

    @model_validator(mode="after")
    def _check(self) -> "SynthConfig":
        if self.items < self.categories:
            raise ValueError(
                f"items={self.items}: expected at least one item per category, categories={self.categories}"
            )
        return self


def synthesize(out: Path, config: SynthConfig, *, force: bool = False) -> dict[str, Any]:
    """Writes a dataset folder (schema.yaml, stats.json, train, valid, test) and returns the content of stats.json.

    Raises DataError if the folder cannot be written, or replaced (see `staged`).

    Stats per split: rows, candidates, label_rate, mean_length, max_length and duplicate_share (of the tokens in batches
    of 64 requests, in the order of the file). Test also has best_auc (of the true probability), popularity_auc and
    popularity_score (the better score: the smoothed click rate of the candidate item in train, or its count there).
    With `forget_share` also forget_share (of the events) and, on test, best_auc_forget and best_auc_retain (of the
    candidates of the forget domain, and of all others); `forget_categories.txt` lists the domain's categories."""

    def planted() -> tuple[Ints, Callable[[Ints], Iterator[pa.Table]]]:
        requests, truth = plant(config)
        return requests, truth.tables

    forget = range(config.retain_categories, config.categories)
    files = {FORGET_FILE: "".join(f"{category}\n" for category in forget)} if forget else {}
    return write_planted(out, _schema(config), planted, lambda: HistoryTally(config), force=force, files=files)


def plant(config: SynthConfig, *, by_time: bool = False) -> "tuple[Ints, Truth]":
    """The requests (B, 3), user, length of the history and time, in order of time, and what makes rows of them.

    With `by_time` a history is all events before the time of its request, as a log has it. Otherwise it may end
    sooner."""
    rng = np.random.default_rng(config.seed)
    catalog = _Catalog(config, rng)
    timelines = _timelines(config, catalog, rng)
    requests = draw_requests(timelines.offsets, timelines.time, config.requests, rng)
    if by_time:
        requests[:, 1] = timelines.before(requests[:, 0], requests[:, 2])
    return requests, Truth(config, catalog, timelines, rng)


class _Catalog:
    """Draws categories, and items of a category."""

    def __init__(self, config: SynthConfig, rng: np.random.Generator) -> None:
        self.items = ZipfItems(config.items, config.categories, ITEM_ZIPF, rng)
        self.quality = rng.standard_normal(config.items)  # by id
        self._category_cdf = zipf_cdf(config.retain_categories, CATEGORY_ZIPF)

    def draw_categories(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> Ints:
        return np.searchsorted(self._category_cdf, rng.random(shape), side="right")


def _timelines(config: SynthConfig, catalog: _Catalog, rng: np.random.Generator) -> Timelines:
    mean = config.mean_length or max(5, round(0.12 * config.max_length))
    lengths = timeline_lengths(mean, config.max_length, config.num_users, rng)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    user = np.repeat(np.arange(len(lengths)), lengths)
    index = np.arange(offsets[-1])
    position = index - offsets[user]
    new_session = (rng.random(len(index)) < 1 / SESSION_EVENTS) | (position == 0)
    session = np.cumsum(new_session) - 1
    slot = rng.choice(len(INTEREST_P), size=session[-1] + 1, p=INTEREST_P)[session]
    era = np.cumsum(position % ERA_EVENTS == 0) - 1
    focus = _drifting_interests(catalog, first=(position == 0)[position % ERA_EVENTS == 0], rng=rng)[era, slot]
    stray = rng.random(len(index)) < STRAY_P
    category = np.where(stray, catalog.draw_categories(len(index), rng), focus)
    if config.forget_share:
        forget, of_domain = _forget_events(config, user, position)
        category = np.where(forget, of_domain, category)
        focus = np.where(forget, of_domain, focus)
    item = catalog.items.draw(category, rng)
    source = _revisits(position, rng)
    return Timelines(
        offsets=offsets,
        item=item[source],
        category=category[source],
        action=draw_actions(category[source] == focus, FOCUS_ACTION_P, STRAY_ACTION_P, rng.random(len(index))),
        time=event_times(offsets, new_session, SESSION_EVENTS, rng),
    )


def _forget_events(config: SynthConfig, user: Ints, position: Ints) -> tuple[NDArray[np.bool_], Ints]:
    """(events,) which events are of the forget domain, by the share of their user, and the category of the domain that
    the user is interested in at the time, which drifts as other interests do."""
    rng = np.random.default_rng([config.seed, 1])
    mean = config.forget_share * FORGET_SPREAD
    share = rng.beta(mean, FORGET_SPREAD - mean, config.num_users)[user]
    new_era = position % ERA_EVENTS == 0
    changed = (rng.random(new_era.sum()) >= KEEP_INTEREST_P) | (position[new_era] == 0)
    drawn = rng.integers(config.retain_categories, config.categories, len(changed))
    since = np.maximum.accumulate(np.where(changed, np.arange(len(changed)), 0))
    return rng.random(len(user)) < share, drawn[since][np.cumsum(new_era) - 1]


def _drifting_interests(catalog: _Catalog, first: NDArray[np.bool_], rng: np.random.Generator) -> Ints:
    """(eras, interests) category; `first` marks the first era of each user, which keeps nothing."""
    shape = (len(first), len(INTEREST_P))
    changed = (rng.random(shape) >= KEEP_INTEREST_P) | first[:, None]
    since = np.maximum.accumulate(np.where(changed, np.arange(len(first))[:, None], 0), axis=0)
    return np.take_along_axis(catalog.draw_categories(shape, rng), since, axis=0)


def _revisits(position: Ints, rng: np.random.Generator) -> Ints:
    """(events,) index of the event whose item each event shows: itself, or the first event of a chain of revisits."""
    index = np.arange(len(position))
    back = np.minimum(rng.geometric(1 / REVISIT_EVENTS, len(position)), position)
    source = np.where(rng.random(len(position)) < REVISIT_P, index - back, index)
    while not np.array_equal(source, further := source[source]):
        source = further
    return source


class Truth:
    """Draws candidates and labels, and packs requests into tables."""

    def __init__(self, config: SynthConfig, catalog: _Catalog, timelines: Timelines, rng: np.random.Generator) -> None:
        self.config, self.catalog, self.timelines, self.rng = config, catalog, timelines, rng
        self.segment = rng.integers(0, config.segments, config.num_users)
        self.taste = rng.standard_normal((config.segments, config.categories))

    def tables(self, requests: Ints) -> Iterator[pa.Table]:
        for part in in_parts(requests, requests[:, 1]):
            yield self._table(part)

    def _table(self, requests: Ints) -> pa.Table:
        user, history, time = requests.T
        row, events = expand_ranges(self.timelines.offsets[user], history)
        category = self._draw_candidate_categories(user, history)
        item = self.catalog.items.draw(category, self.rng)
        event_category = self.timelines.category[events]
        weight = ACTION_WEIGHT[self.timelines.action[events]]
        recent = np.cumsum(history)[row] - np.arange(len(row)) <= RECENT_EVENTS
        terms = [
            RECENT_WEIGHT * saturated(shares(row, event_category, weight * recent, category)),
            OLD_WEIGHT * saturated(shares(row, event_category, weight * ~recent, category)),
            QUALITY_WEIGHT * self.catalog.quality[item],
            SEGMENT_WEIGHT * self.taste[self.segment[user][:, None], category],
        ]
        truth = sigmoid(BIAS + np.sum(terms, axis=0)).astype(np.float32)
        label = self.rng.random(truth.shape) < truth
        columns = {"user": user, "segment": self.segment[user], "time": time}
        for name in ("item", "category", "action", "time"):
            columns[f"history.{name}"] = list_column(history, getattr(self.timelines, name)[events])
        per_request = np.full(len(user), self.config.candidates)
        values = {"item": item, "category": category, "click": label.astype(np.int8), "click.oracle": truth}
        for name, of in values.items():
            columns[f"candidate.{name}"] = list_column(per_request, of.ravel())
        return pa.table(columns)

    def _draw_candidate_categories(self, user: Ints, history: Ints) -> Ints:
        """(B, candidates): a third each from the newest events, the whole history and all categories."""
        rng = self.rng
        shape = (len(user), self.config.candidates)
        length = history[:, None]
        back = np.where(rng.random(shape) < 0.5, np.minimum(length, RECENT_EVENTS), length)
        event = self.timelines.offsets[user][:, None] + length - 1 - (rng.random(shape) * back).astype(np.int64)
        anywhere = rng.random(shape) < 1 / 3
        drawn = self.catalog.draw_categories(shape, rng)
        if self.config.forget_share:
            forget = rng.random(shape) < self.config.forget_share
            drawn = np.where(forget, rng.integers(self.config.retain_categories, self.config.categories, shape), drawn)
        return np.where(anywhere, drawn, self.timelines.category[event])


class HistoryTally(Tally):
    def __init__(self, config: SynthConfig) -> None:
        super().__init__(config)
        self.config = config
        self.tokens = self.duplicates = self.forget = self.events = 0

    def add(self, table: pa.Table) -> pa.Table:
        for start in range(0, table.num_rows, 64):
            rows = table.slice(start, 64)
            items = np.concatenate([ragged_values(rows, name).values for name in ("history.item", "candidate.item")])
            self.tokens += len(items)
            self.duplicates += len(items) - len(np.unique(items))
        category = ragged_values(table, "history.category").values
        self.events += len(category)
        self.forget += int((category >= self.config.retain_categories).sum())
        return super().add(table)

    def summary(self) -> dict[str, Any]:
        label, lengths = self.column("click"), np.concatenate(self.lengths["history"])
        return {
            "rows": len(lengths),
            "candidates": len(label),
            "label_rate": float(label.mean()),
            "mean_length": float(lengths.mean()),
            "max_length": int(lengths.max()),
            "duplicate_share": self.duplicates / self.tokens,
        } | ({"forget_share": self.forget / self.events} if self.config.forget_share else {})

    def quality(self, train: Tally) -> dict[str, Any]:
        """AUC of the truth, and of the best score that does not use the history."""
        found: dict[str, Any] = dict(
            zip(("best_auc", "popularity_auc", "popularity_score"), self.auc_of_task(train, "click"))
        )
        if self.config.forget_share:
            label, truth = self.column("click"), self.column("click.oracle")
            forget = self.column("category") >= self.config.retain_categories
            found |= {"best_auc_forget": auc_or_half(truth[forget], label[forget])}
            found |= {"best_auc_retain": auc_or_half(truth[~forget], label[~forget])}
        return found


def _schema(config: SynthConfig) -> Schema:
    token = [IdField(name="item", table="item"), IdField(name="category", table="category")]
    return Schema(
        name="synthetic",
        tables={
            "item": config.items,
            "category": config.categories,
            "user": config.num_users,
            "segment": config.segments,
        },
        request=RequestSchema(grouping_key="user", time="time"),
        context=[IdField(name="user", table="user"), IdField(name="segment", table="segment")],
        sequences=[SequenceSchema(name="history", ids=token, side={"action": len(ACTIONS)}, time=True)],
        candidate=CandidateSchema(ids=token, labels=["click"], visible_events=False, oracle=True),
        feature_groups={
            "user": ["context.user", "context.segment"],
            "item": ["candidate.item"],
            "category": ["candidate.category"],
        },
    )
