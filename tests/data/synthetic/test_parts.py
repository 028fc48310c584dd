import numpy as np
import pytest

from dist_rec.data.synthetic.parts import (
    Timelines,
    auc_or_half,
    draw_requests,
    event_times,
    popularity_auc,
    saturated,
    sigmoid,
    timeline_lengths,
    zipf_cdf,
)


def test_zipf() -> None:
    assert zipf_cdf(3, 1.0) == pytest.approx([6 / 11, 9 / 11, 1.0])
    assert zipf_cdf(1000, 0.7)[-1] == 1.0, "a draw never falls behind the last"


def test_terms() -> None:
    assert saturated(np.array([0.0, 0.2, 1.0])) == pytest.approx([0.0, 1 - np.exp(-1), 1 - np.exp(-5)])
    assert sigmoid(np.array([0.0, 2.0, -2.0])).tolist() == pytest.approx([0.5, 0.8808, 0.1192], abs=1e-4)


def test_timelines() -> None:
    rng = np.random.default_rng(0)
    lengths = timeline_lengths(60, 300, 5_000, rng)
    assert lengths.min() >= 5 and lengths.max() == 300 and 60 / 0.7 - 20 < lengths.mean() < 60 / 0.7
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    times = event_times(offsets, rng.random(offsets[-1]) < 0.2, 5, rng)
    for user in range(20):
        assert (np.diff(times[offsets[user] : offsets[user + 1]]) >= 0).all()
    requests = draw_requests(offsets, times, 1_000, rng)
    user, history, time = requests.T
    assert (np.diff(time) >= 0).all() and (history >= 0.4 * lengths[user]).all() and (history <= lengths[user]).all()
    assert (time > times[offsets[user] + history - 1]).all()


def test_auc_by_hand() -> None:
    label = np.array([0, 1, 0, 1])
    assert auc_or_half(np.array([1.0, 2.0, 2.0, 3.0]), label) == pytest.approx(3.5 / 4)
    assert auc_or_half(np.array([1e6, 1e6 + 1, 1e6 + 2, 1e6 + 3]), label) == pytest.approx(0.75), (
        "large scores are not tied"
    )
    assert auc_or_half(np.arange(4), np.ones(4)) == auc_or_half(np.zeros(0), np.zeros(0)) == 0.5


def test_popularity_is_the_better_of_rate_and_count() -> None:
    item, label = np.repeat([0, 1], [90, 10]), np.repeat([0, 1], [90, 10])
    test_item = np.array([0, 1, 2])
    rate = popularity_auc(item, label, test_item, np.array([0, 1, 0]), items=3)
    assert rate == (1.0, "click rate in train")
    assert popularity_auc(item, label, test_item, np.array([1, 0, 0]), items=3) == (1.0, "count in train")
    nothing = np.zeros(0, np.int64)
    assert popularity_auc(nothing, nothing, test_item, np.array([0, 1, 0]), items=3)[0] == 0.5


def test_events_before_a_time() -> None:
    none = np.zeros(5, np.int64)
    timelines = Timelines(
        offsets=np.array([0, 2, 2, 5]), item=none, category=none, action=none, time=np.array([3, 9, 1, 1, 9])
    )
    users, times = np.array([0, 0, 0, 1, 2, 2, 2]), np.array([3, 4, 99, 5, 1, 2, 10])
    assert timelines.before(users, times).tolist() == [0, 1, 2, 0, 0, 2, 3]
