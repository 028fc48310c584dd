"""What the kinds of synthetic data share: how things are drawn, and what is measured about them."""

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.auc import auc

ACTIONS = ("view", "click", "cart", "buy")
ACTION_WEIGHT = np.array([1.0, 2.0, 3.0, 4.0])
FIRST_SECOND = 1_700_000_000
DAY_SECONDS = 86_400
SPLIT_ENDS = {"train": 0.8, "valid": 0.9, "test": 1.0}  # of the requests in order of time
SHARE_SCALE = 0.2  # share at which its term reaches 63 % of its weight


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


def timeline_lengths(mean_length: int, max_length: int, users: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(users,) log-normal; requests fall into the last 60 % of a timeline, so histories are about 0.7 as long in the
    mean."""
    lengths = rng.lognormal(np.log(mean_length / 0.7) - 0.5, 1.0, users)
    return np.clip(lengths, 5, max_length).astype(np.int64)


def event_times(
    offsets: NDArray[np.int64], new_session: NDArray[np.bool_], session_events: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(events,) seconds: every user is active for about 60 days, starting within the first 120; users' timelines are
    packed."""
    lengths = np.diff(offsets)
    user = np.repeat(np.arange(len(lengths)), lengths)
    gap_seconds = 60 * DAY_SECONDS / np.maximum(1, lengths / session_events)
    step = rng.exponential(60, len(user)) + new_session * rng.exponential(gap_seconds[user])
    elapsed = np.cumsum(step)
    start = rng.uniform(0, 120 * DAY_SECONDS, len(lengths)) - elapsed[offsets[:-1]]
    return (FIRST_SECOND + start[user] + elapsed).astype(np.int64)


def draw_requests(
    offsets: NDArray[np.int64], times: NDArray[np.int64], requests: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """(requests, 3) user, events of the timeline that are history, and time, in order of time."""
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
    train_item: NDArray[np.int64],
    train_label: NDArray,
    test_item: NDArray[np.int64],
    test_label: NDArray,
    items: int,
) -> tuple[float, str]:
    """AUC on test of the better score of an item, and which: its smoothed rate of ones in train, or its count there.

    Items and labels are those of all candidates of a split, (N,) each; `items` is the number of ids.
    """
    shown = np.bincount(train_item, minlength=items)
    rate = (np.bincount(train_item, train_label, items) + 10 * (train_label.mean() if len(train_label) else 0.0)) / (
        shown + 10
    )
    rates, counts = auc_or_half(rate[test_item], test_label), auc_or_half(shown[test_item], test_label)
    scores = {"click rate in train": rates, "count in train": counts}
    best = max(scores, key=scores.__getitem__)
    return scores[best], best
