"""A dataset with a planted truth: every label is drawn from a known probability, so the best reachable AUC is known.

Users visit in sessions. A session has one focus category, taken from the user's few interests, and interests drift from
era to era. Items of a category are chosen by Zipf's law; some events return to an item of a little while ago. A
candidate is clicked with a probability that rises with the share of its category among the newest events, separately
with its share among the older ones (both weighted by action), with the quality of the item, and with the user's
segment."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dist_rec.common.strict import Strict
from dist_rec.data.columns import expand_ranges, list_column
from dist_rec.data.schema import CandidateSchema, IdField, RequestSchema, Schema, SequenceSchema
from dist_rec.data.synthetic.parts import (
    ACTION_WEIGHT,
    ACTIONS,
    SPLIT_ENDS,
    auc_or_half,
    draw_requests,
    event_times,
    popularity_auc,
    saturated,
    sigmoid,
    timeline_lengths,
    zipf_cdf,
)
from dist_rec.data.writer import staged, write_schema, write_split

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
ITEM_ZIPF = 1.0
CATEGORY_ZIPF = 0.4
EVENTS_PER_CHUNK = 2_000_000

# The click probability: sigmoid(bias + sum of weight * term), terms in the order of `_Truth._table`.
BIAS, RECENT_WEIGHT, OLD_WEIGHT, QUALITY_WEIGHT, SEGMENT_WEIGHT = -3.2, 3.4, 3.0, 0.8, 0.35


class SynthConfig(Strict):
    """What `dist-rec data synth` makes. 80 / 10 / 10 % of the requests, in order of time, are train, valid and test."""

    requests: int = Field(default=40_000, ge=10, description="Requests over all splits.")
    candidates: int = Field(4, ge=1, description="Candidates per request.")
    max_length: int = Field(1_000, ge=10, description="Longest history, in events.")
    mean_length: int | None = Field(None, ge=5, description="Mean history, in events; 12 % of max_length by default.")
    users: int | None = Field(None, ge=1, description="Users; one per 5 requests by default.")
    items: int = Field(10_000, ge=1)
    categories: int = Field(16, ge=2)
    segments: int = Field(8, ge=1, description="Values of the users' context field `segment`.")
    seed: int = Field(0, ge=0)

    @model_validator(mode="after")
    def _check(self) -> "SynthConfig":
        if self.items < self.categories:
            raise ValueError(
                f"items={self.items}: expected at least one item per category, categories={self.categories}"
            )
        if self.mean_length is not None and self.mean_length >= self.max_length:
            raise ValueError(f"mean_length={self.mean_length}: expected less than max_length={self.max_length}")
        return self

    @property
    def num_users(self) -> int:
        return self.users or max(1, self.requests // 5)


def synthesize(out: Path, config: SynthConfig, *, force: bool = False) -> dict[str, Any]:
    """Writes a dataset folder (schema.yaml, stats.json, train, valid, test) and returns the content of stats.json.

    Raises DataError if the folder cannot be written, or replaced (see `staged`).

    Stats per split: rows, candidates, label_rate, mean_length, max_length and duplicate_share (of the tokens in batches
    of 64 requests, in the order of the file); for test also best_auc (of the true probability), popularity_auc and
    popularity_score (which was better: the smoothed click rate of the candidate item in train, or its count there)."""
    with staged(out, force=force) as folder:
        rng = np.random.default_rng(config.seed)
        catalog = _Catalog(config, rng)
        timelines = _timelines(config, catalog, rng)
        requests = draw_requests(timelines.offsets, timelines.time, config.requests, rng)
        truth = _Truth(config, catalog, timelines, rng)
        schema = _schema(config)
        ends = {name: round(share * config.requests) for name, share in SPLIT_ENDS.items()}
        tallies = {name: _Tally(config) for name in ends}
        write_schema(folder, schema)
        start = 0
        for name, end in ends.items():
            tables = truth.tables(requests[start:end], rng)
            write_split(folder / name, map(tallies[name].add, tables), schema)
            start = end
        stats = {name: tally.summary() for name, tally in tallies.items()}
        stats["test"] |= tallies["test"].quality(tallies["train"])
        (folder / "stats.json").write_text(json.dumps(stats, indent=2) + "\n")
    return stats


class _Catalog:
    """Items: `category + categories * rank` before a permutation, so that ids tell nothing; rank 0 is the most
    visited."""

    def __init__(self, config: SynthConfig, rng: np.random.Generator) -> None:
        self.categories = config.categories
        self.ids = rng.permutation(config.items)
        self.quality = rng.standard_normal(config.items)  # by id
        self._rank_cdf = zipf_cdf(config.items // config.categories, ITEM_ZIPF)
        self._category_cdf = zipf_cdf(config.categories, CATEGORY_ZIPF)

    def draw_categories(self, shape: int | tuple[int, ...], rng: np.random.Generator) -> NDArray[np.int64]:
        return np.searchsorted(self._category_cdf, rng.random(shape), side="right")

    def draw_items(self, category: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        rank = np.searchsorted(self._rank_cdf, rng.random(category.shape), side="right")
        return self.ids[category + self.categories * rank]


@dataclass(frozen=True)
class _Timelines:
    """Events of all users, packed user after user, oldest first."""

    offsets: NDArray[np.int64]  # (users + 1,)
    item: NDArray[np.int64]
    category: NDArray[np.int64]
    action: NDArray[np.int64]
    time: NDArray[np.int64]


def _timelines(config: SynthConfig, catalog: _Catalog, rng: np.random.Generator) -> _Timelines:
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
    item = catalog.draw_items(category, rng)
    source = _revisits(position, rng)
    return _Timelines(
        offsets=offsets,
        item=item[source],
        category=category[source],
        action=_draw_actions(category[source] == focus, rng),
        time=event_times(offsets, new_session, SESSION_EVENTS, rng),
    )


def _drifting_interests(catalog: _Catalog, first: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    """(eras, interests) category; `first` marks the first era of each user, where nothing is kept."""
    shape = (len(first), len(INTEREST_P))
    changed = (rng.random(shape) >= KEEP_INTEREST_P) | first[:, None]
    since = np.maximum.accumulate(np.where(changed, np.arange(len(first))[:, None], 0), axis=0)
    return np.take_along_axis(catalog.draw_categories(shape, rng), since, axis=0)


def _revisits(position: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """(events,) index of the event whose item each event shows: itself, or after a revisit the first one of the
    chain."""
    index = np.arange(len(position))
    back = np.minimum(rng.geometric(1 / REVISIT_EVENTS, len(position)), position)
    source = np.where(rng.random(len(position)) < REVISIT_P, index - back, index)
    while not np.array_equal(source, further := source[source]):
        source = further
    return source


def _draw_actions(in_focus: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    draw = rng.random(len(in_focus))
    focus, stray = (np.searchsorted(np.cumsum(p)[:-1], draw, side="right") for p in (FOCUS_ACTION_P, STRAY_ACTION_P))
    return np.where(in_focus, focus, stray)


class _Truth:
    """Draws candidates and labels, and packs requests into tables."""

    def __init__(self, config: SynthConfig, catalog: _Catalog, timelines: _Timelines, rng: np.random.Generator) -> None:
        self.config = config
        self.catalog = catalog
        self.timelines = timelines
        self.segment = rng.integers(0, config.segments, config.num_users)
        self.taste = rng.standard_normal((config.segments, config.categories))

    def tables(self, requests: NDArray[np.int64], rng: np.random.Generator) -> Iterator[pa.Table]:
        """The requests in tables of some million events at most."""
        chunk = np.cumsum(requests[:, 1]) // EVENTS_PER_CHUNK
        for part in np.split(requests, np.flatnonzero(np.diff(chunk)) + 1):
            yield self._table(part, rng)

    def _table(self, requests: NDArray[np.int64], rng: np.random.Generator) -> pa.Table:
        user, history, time = requests.T
        row, events = expand_ranges(self.timelines.offsets[user], history)
        category = self._draw_candidate_categories(user, history, rng)
        item = self.catalog.draw_items(category, rng)
        weight = ACTION_WEIGHT[self.timelines.action[events]]
        recent = np.cumsum(history)[row] - np.arange(len(row)) <= RECENT_EVENTS
        terms = [
            RECENT_WEIGHT * self._match(row, events, weight * recent, category),
            OLD_WEIGHT * self._match(row, events, weight * ~recent, category),
            QUALITY_WEIGHT * self.catalog.quality[item],
            SEGMENT_WEIGHT * self.taste[self.segment[user][:, None], category],
        ]
        truth = sigmoid(BIAS + np.sum(terms, axis=0)).astype(np.float32)
        label = rng.random(truth.shape) < truth
        columns = {"user": user, "segment": self.segment[user], "time": time}
        for name in ("item", "category", "action", "time"):
            columns[f"history.{name}"] = list_column(history, getattr(self.timelines, name)[events])
        per_request = np.full(len(user), self.config.candidates)
        for name, values in {
            "item": item,
            "category": category,
            "click": label.astype(np.int8),
            "click.oracle": truth,
        }.items():
            columns[f"candidate.{name}"] = list_column(per_request, values.ravel())
        return pa.table(columns)

    def _draw_candidate_categories(
        self, user: NDArray[np.int64], history: NDArray[np.int64], rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """(B, candidates): a third from the newest events, a third from the whole history, a third from all
        categories."""
        shape = (len(user), self.config.candidates)
        length = history[:, None]
        back = np.where(rng.random(shape) < 0.5, np.minimum(length, RECENT_EVENTS), length)
        event = self.timelines.offsets[user][:, None] + length - 1 - (rng.random(shape) * back).astype(np.int64)
        anywhere = rng.random(shape) < 1 / 3
        return np.where(anywhere, self.catalog.draw_categories(shape, rng), self.timelines.category[event])

    def _match(
        self, row: NDArray[np.int64], events: NDArray[np.int64], weight: NDArray, category: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """(B, candidates) saturated share of each candidate's category in the weight of the events."""
        total = np.bincount(row, weight, len(category))
        terms = []
        for column in category.T:
            same = self.timelines.category[events] == column[row]
            share = np.bincount(row, weight * same, len(category)) / np.maximum(total, 1.0)
            terms.append(saturated(share))
        return np.stack(terms, axis=1)


class _Tally:
    """What stats.json says about a split, gathered while it is written."""

    def __init__(self, config: SynthConfig) -> None:
        self.candidates_per_request = config.candidates
        self.items = config.items
        self.parts: list[dict[str, NDArray]] = []
        self.lengths: list[NDArray[np.int64]] = []
        self.tokens = self.duplicates = 0

    def add(self, table: pa.Table) -> pa.Table:
        """Counts a table and hands it on."""
        names = ("candidate.item", "candidate.click", "candidate.click.oracle")
        self.parts.append({name: table.column(name).combine_chunks().flatten().to_numpy() for name in names})
        self.lengths.append(np.diff(table.column("history.item").combine_chunks().offsets.to_numpy()))
        for start in range(0, table.num_rows, 64):
            rows = table.slice(start, 64)
            owners = (rows.column(name).combine_chunks() for name in ("history.item", "candidate.item"))
            items = np.concatenate([owner.flatten() for owner in owners])
            self.tokens += len(items)
            self.duplicates += len(items) - len(np.unique(items))
        return table

    def summary(self) -> dict[str, Any]:
        label = self._column("candidate.click")
        lengths = np.concatenate(self.lengths)
        return {
            "rows": len(lengths),
            "candidates": len(label),
            "label_rate": float(label.mean()),
            "mean_length": float(lengths.mean()),
            "max_length": int(lengths.max()),
            "duplicate_share": self.duplicates / self.tokens,
        }

    def quality(self, train: "_Tally") -> dict[str, Any]:
        """AUC of the truth, and of what can be said without looking at the history."""
        item, label = self._column("candidate.item"), self._column("candidate.click")
        shown, clicked = train._column("candidate.item"), train._column("candidate.click")
        popularity, score = popularity_auc(shown, clicked, item, label, self.items)
        return {
            "best_auc": auc_or_half(self._column("candidate.click.oracle"), label),
            "popularity_auc": popularity,
            "popularity_score": score,
        }

    def _column(self, name: str) -> NDArray:
        return np.concatenate([part[name] for part in self.parts])


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
