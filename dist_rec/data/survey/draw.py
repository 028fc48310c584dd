"""A survey as one picture: lengths, ages, requests and label rates over time, and popularity."""

import datetime

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dist_rec.data.columns import CANDIDATE
from dist_rec.data.survey.facts import AGES, SplitFacts, over_time
from dist_rec.data.survey.survey import Survey

SPANS = 60  # of time, from the first request to the last
FEWEST = 30  # labels of a span whose rate is drawn
AGE_NAMES = {0: "0 s", 12: "1 min", 24: "1 h", 33: "1 d", 38: "1 w", 50: "1 y"}  # at two buckets per doubling


def draw(survey: Survey) -> Figure:
    """One panel for each."""
    figure = Figure(figsize=(12, 11), layout="constrained")
    panels = figure.subplots(3, 2).flat
    _lengths(next(panels), survey.facts)
    _ages(next(panels), survey.facts)
    _requests(next(panels), survey.facts)
    _rates(next(panels), survey)
    _popularity(next(panels), survey)
    _alone(next(panels), survey)
    return figure


def _lengths(axes: Axes, facts: list[SplitFacts]) -> None:
    axes.set_title("length of histories (share of requests)")
    for of in facts:
        for name, lengths in of.lengths.items():
            buckets = np.bincount(np.log2(lengths + 1.0).astype(np.int64), minlength=1)
            label = of.name if len(of.lengths) == 1 else f"{of.name}, {name}"
            shares = buckets / max(1, buckets.sum())
            axes.plot(2 ** np.arange(len(buckets)) - 1, shares, drawstyle="steps-post", label=label)
    axes.set_xscale("symlog", base=2)
    axes.set_xlabel("events")
    axes.legend()


def _ages(axes: Axes, facts: list[SplitFacts]) -> None:
    axes.set_title("age of events at the request (share of events)")
    for of in facts:
        for name, counts in of.ages.items():
            label = of.name if len(of.ages) == 1 else f"{of.name}, {name}"
            axes.plot(np.arange(AGES), counts / max(1, counts.sum()), drawstyle="steps-post", label=label)
    axes.set_xticks(list(AGE_NAMES), list(AGE_NAMES.values()))
    _legend_or_none(axes, "no sequence has times")


def _requests(axes: Axes, facts: list[SplitFacts]) -> None:
    axes.set_title("requests over time")
    for of in facts:
        if len(of.time):
            starts, requests, _, _ = over_time(of, *_spans(facts))
            axes.plot(*_dated(starts, requests), drawstyle="steps-post", label=of.name)
    _legend_or_none(axes, "requests have no times")


def _rates(axes: Axes, survey: Survey) -> None:
    axes.set_title("label rate over time")
    for of in survey.facts:
        if not len(of.time):
            continue
        starts, _, ones, defined = over_time(of, *_spans(survey.facts))
        for place, task in enumerate(survey.schema.candidate.labels):
            rate = np.where(defined[:, place] >= FEWEST, ones[:, place] / np.maximum(1, defined[:, place]), np.nan)
            axes.plot(*_dated(starts, rate), ".-", label=f"{of.name}, {task}")
    _legend_or_none(axes, "requests have no times")


def _popularity(axes: Axes, survey: Survey) -> None:
    axes.set_title("popularity: share of the most frequent ids")
    for owner in [*(of.name for of in survey.schema.sequences), CANDIDATE]:
        of = survey.schema.candidate if owner == CANDIDATE else _sequence(survey, owner)
        name = f"{owner}.{of.ids[0].name}"
        counts = np.sort(survey.facts[0].counts[name])[::-1]
        counts = counts[counts > 0]
        axes.plot(np.arange(1, len(counts) + 1), np.cumsum(counts) / max(1, counts.sum()), label=name)
    axes.set_xscale("log")
    axes.set_xlabel("ids")
    axes.set_ylim(0, 1)
    axes.legend()


def _alone(axes: Axes, survey: Survey) -> None:
    axes.set_title("AUC of a feature alone")
    found = [of for of in survey.alone if not np.isnan(of.auc)][:10][::-1]
    axes.barh([f"{of.feature}, {of.task}" for of in found], [of.auc for of in found])
    axes.set_xlim(0.4, 1)
    axes.axvline(0.98, color="tab:red")


def _sequence(survey: Survey, name: str):
    return next(of for of in survey.schema.sequences if of.name == name)


def _spans(facts: list[SplitFacts]) -> tuple[int, int]:
    """The first request of all splits, and the width of a span of time in seconds."""
    first = min(int(of.time.min()) for of in facts if len(of.time))
    last = max(int(of.time.max()) for of in facts if len(of.time))
    return first, max(1, -(-(last - first + 1) // SPANS))


def _dated(starts: np.ndarray, values: np.ndarray) -> tuple[list, np.ndarray]:
    """Times of 1980 and later as dates; counts of one's own as they are."""
    if starts.min() < 3 * 10**8:
        return starts.tolist(), values
    return [datetime.datetime.fromtimestamp(start, datetime.timezone.utc) for start in starts.tolist()], values


def _legend_or_none(axes: Axes, why: str) -> None:
    if axes.get_lines():
        axes.legend()
        for label in axes.get_xticklabels():
            label.set_rotation(30)
    else:
        axes.text(0.5, 0.5, why, ha="center", va="center", transform=axes.transAxes)
