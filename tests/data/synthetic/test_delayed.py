import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray

from dist_rec.common.auc import auc
from dist_rec.data.columns import ragged_values, scalar_values
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.delayed import DelayedConfig, draw_delays, synthesize_delayed
from dist_rec.data.synthetic.latent import DWELLS, NEXT_EVENTS

SMALL = DelayedConfig(requests=8_000)
DAY = 86_400
SPLITS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("delayed") / "small"
    synthesize_delayed(out, SMALL)
    return out


@pytest.fixture(scope="module")
def train(made: Path) -> pa.Table:
    return pq.read_table(made / "train")


def _of(table: pa.Table, name: str) -> NDArray:
    return ragged_values(table, name).values.astype(np.float64 if name.endswith("oracle") else np.int64)


def _first_dwell(table: pa.Table) -> NDArray:
    """(candidates,) of candidates that all have feedback."""
    events = _of(table, "candidate.feedback_events")
    return _of(table, "feedback.dwell")[np.cumsum(events) - events]


def _next_events(table: pa.Table) -> NDArray:
    """(candidates,) numbers from 0 to 8: next events in the candidate's category, and 3 times those in others."""
    events = _of(table, "candidate.feedback_events")
    owner = np.repeat(np.arange(len(events)), events)
    same = _of(table, "feedback.category") == _of(table, "candidate.category")[owner]
    same = np.bincount(owner, same, len(events)).astype(np.int64)  # and the first event, which is the candidate's own
    return same - 1 + 3 * (events - same)


def test_schema(made: Path) -> None:
    schema = load_schema(made)
    assert schema.tables == {"item": 300, "category": 12, "segment": 8}
    assert [field.name for field in schema.context] == ["segment"] and schema.request.grouping_key == "user"
    assert schema.candidate.delayed["convert"].horizon == 7 * DAY
    feedback = schema.candidate.feedback
    assert feedback is not None and feedback.time and feedback.most == 1 + NEXT_EVENTS
    assert [field.name for field in feedback.ids] == ["item", "category"] and feedback.side == {"dwell": DWELLS}


@pytest.mark.parametrize("split", SPLITS)
def test_columns(made: Path, split: str) -> None:
    table = pq.read_table(made / split)
    request, labels = scalar_values(table, "time"), _of(table, "candidate.convert")
    candidates = ragged_values(table, "candidate.item").lengths
    assert (candidates == 4).all()
    per_candidate = ("category", "convert", "convert.oracle", "convert.delay", "feedback_events")
    for name in per_candidate:
        assert np.array_equal(ragged_values(table, f"candidate.{name}").lengths, candidates)

    delay = _of(table, "candidate.convert.delay")
    assert not delay[labels == 0].any() and delay[labels == 1].min() >= 1 and delay.max() <= 7 * DAY

    events = _of(table, "candidate.feedback_events").reshape(-1, 4)
    assert set(np.unique(events)) == {1, 2, 3}
    for name in ("item", "category", "dwell", "time"):
        assert np.array_equal(ragged_values(table, f"feedback.{name}").lengths, events.sum(axis=1))
    owner = np.repeat(np.arange(events.size), events.ravel())
    first = np.r_[True, np.diff(owner) > 0]
    for name in ("item", "category"):
        assert np.array_equal(_of(table, f"feedback.{name}")[first], _of(table, f"candidate.{name}"))
    since = _of(table, "feedback.time") - np.repeat(np.repeat(request, 4), events.ravel())
    assert since.min() > 0 and np.median(since) < 600 and (np.diff(since)[~first[1:]] > 0).all()


def test_histories_end_before_the_request(train: pa.Table) -> None:
    times = ragged_values(train, "history.time")
    assert times.lengths.min() >= 1 and times.lengths.max() <= 60
    last = times.values[times.offsets[1:] - 1]
    assert (last < scalar_values(train, "time")).all()
    inner = np.ones(len(times.values) - 1, dtype=bool)
    inner[times.offsets[1:-1] - 1] = False
    assert (np.diff(times.values)[inner] >= 0).all()


def test_requests_are_spread_evenly_over_the_days(made: Path) -> None:
    times = {name: scalar_values(pq.read_table(made / name), "time") for name in SPLITS}
    everything = np.concatenate([times[name] for name in SPLITS])
    gaps = np.diff(everything)
    assert gaps.max() - gaps.min() <= 1
    assert times["train"][-1] - times["train"][0] == pytest.approx(77 * DAY, rel=1e-3)


def test_stats(made: Path, train: pa.Table) -> None:
    stats = json.loads((made / "stats.json").read_text())
    assert [(stats[name]["rows"], stats[name]["candidates"]) for name in SPLITS] == [
        (6_400, 25_600),
        (800, 3_200),
        (800, 3_200),
    ]
    of, time, label = stats["train"], scalar_values(train, "time"), _of(train, "candidate.convert")
    assert of["label_rate"] == pytest.approx(label.mean()) and 0.15 < of["label_rate"] < 0.25
    assert of["max_length"] == ragged_values(train, "history.item").lengths.max()
    assert of["last_request"] == time.max() and of["feedback_share"] == 1
    assert of["immature_share"] == pytest.approx(7 / 77, abs=1e-3)
    arrival = np.repeat(time, 4) + _of(train, "candidate.convert.delay")
    assert of["arrived_share"] == pytest.approx((arrival <= time.max())[label == 1].mean())
    assert 0.96 < of["arrived_share"] < 0.99


def test_feedback_is_worth_knowing(made: Path) -> None:
    test = json.loads((made / "stats.json").read_text())["test"]
    assert 0.74 < test["best_auc"] < 0.81 and 0.87 < test["best_auc_with_feedback"] < 0.92
    assert test["popularity_auc"] < test["best_auc"] - 0.05


def test_labels_follow_their_probability(train: pa.Table) -> None:
    truth, label = _of(train, "candidate.convert.oracle"), _of(train, "candidate.convert")
    for part in np.array_split(np.argsort(truth), 10):
        assert label[part].mean() == pytest.approx(truth[part].mean(), abs=0.03)


def test_feedback_tells_what_the_truth_does_not_know(train: pa.Table) -> None:
    rest = _of(train, "candidate.convert") - _of(train, "candidate.convert.oracle")
    dwell = _first_dwell(train)
    assert np.corrcoef(rest, dwell)[0, 1] > 0.3
    shuffled = np.random.default_rng(0).permutation(dwell)
    assert abs(np.corrcoef(rest, shuffled)[0, 1]) < 0.02
    events = _of(train, "candidate.feedback_events")
    more = np.ones(events.sum(), dtype=bool)
    more[np.cumsum(events) - events] = False
    of_event = np.repeat(rest, events)[more]
    assert abs(np.corrcoef(of_event, _of(train, "feedback.dwell")[more])[0, 1]) < 0.03, "of next events it is noise"
    same = _of(train, "feedback.category") == np.repeat(_of(train, "candidate.category"), events)
    assert np.corrcoef(of_event, same[more])[0, 1] > 0.1
    assert abs(np.corrcoef(rest, events)[0, 1]) < 0.02, "nor does their number tell"


@pytest.mark.parametrize("noise", [0.5, 1e3])
def test_the_best_auc_with_feedback_is_about_what_counting_finds(noise: float, tmp_path: Path) -> None:
    """The share of labels of 1 in train by the truth and a part of the feedback: the first dwell, or where noise drowns
    it, the next events. It comes near the best AUC and does not pass it."""
    test = synthesize_delayed(tmp_path / "d", DelayedConfig(requests=16_000, noise=noise))["test"]
    splits = {name: pq.read_table(tmp_path / "d" / name) for name in ("train", "test")}
    truth = {name: _of(table, "candidate.convert.oracle") for name, table in splits.items()}
    edges = np.quantile(truth["train"], np.arange(1, 30) / 30)
    part = _first_dwell if noise < 1 else _next_events
    cells = {name: np.searchsorted(edges, truth[name]) * DWELLS + part(table) for name, table in splits.items()}
    shown = np.bincount(cells["train"], minlength=30 * DWELLS)
    ones = np.bincount(cells["train"], _of(splits["train"], "candidate.convert"), 30 * DWELLS)
    found = auc(((ones + 0.2) / (shown + 1))[cells["test"]], _of(splits["test"], "candidate.convert"))
    assert found > test["best_auc"] + 0.02
    assert test["best_auc_with_feedback"] - 0.015 < found < test["best_auc_with_feedback"] + 0.003


def test_delays_follow_the_law_cut_at_the_horizon(train: pa.Table) -> None:
    label = _of(train, "candidate.convert")
    days = np.sort(_of(train, "candidate.convert.delay")[label == 1] / DAY)
    law = (1 - np.exp(-days / 2)) / (1 - np.exp(-7 / 2))
    empirical = np.arange(1, len(days) + 1) / len(days)
    assert np.abs(empirical - law).max() < 1.95 / np.sqrt(len(days))  # Kolmogorov-Smirnov, level 0.001


def test_delays_depend_on_nothing_else(train: pa.Table) -> None:
    came = _of(train, "candidate.convert") == 1
    delay = _of(train, "candidate.convert.delay")[came]
    for other in (_of(train, "candidate.convert.oracle"), _first_dwell(train)):
        assert abs(np.corrcoef(delay, other[came])[0, 1]) < 0.05


@pytest.mark.parametrize(("horizon_days", "mean_delay_days"), [(1e-4, 50.0), (7.0, 1e-4), (7.0, 1e6)])
def test_delays_of_extreme_laws(horizon_days: float, mean_delay_days: float) -> None:
    config = DelayedConfig(horizon_days=horizon_days, mean_delay_days=mean_delay_days)
    delays = draw_delays(config, (10_000,), np.random.default_rng(0)) / config.horizon_seconds
    assert delays.min() > 0 and delays.max() <= 1
    if mean_delay_days > horizon_days:
        assert delays.mean() == pytest.approx(0.5, abs=0.1), "nearly uniform"


def test_share_of_candidates_with_feedback(made: Path, tmp_path: Path) -> None:
    half, none = (
        synthesize_delayed(tmp_path / str(share), SMALL.model_copy(update={"feedback_share": share}))
        for share in (0.5, 0.0)
    )
    events = _of(pq.read_table(tmp_path / "0.5" / "train"), "candidate.feedback_events")
    assert (events > 0).mean() == pytest.approx(0.5, abs=0.02) == half["train"]["feedback_share"]
    assert not len(_of(pq.read_table(tmp_path / "0.0" / "train"), "feedback.item"))
    best = json.loads((made / "stats.json").read_text())["test"]["best_auc_with_feedback"]
    assert half["test"]["best_auc"] + 0.02 < half["test"]["best_auc_with_feedback"] < best - 0.02
    assert none["test"]["best_auc_with_feedback"] == pytest.approx(none["test"]["best_auc"], abs=1e-6)


def test_noise_hides_the_latent_value(made: Path, tmp_path: Path) -> None:
    loud = synthesize_delayed(tmp_path / "d", SMALL.model_copy(update={"noise": 3.0}))["test"]
    stats = json.loads((made / "stats.json").read_text())["test"]
    assert loud["best_auc"] == stats["best_auc"]
    assert loud["best_auc"] < loud["best_auc_with_feedback"] < stats["best_auc_with_feedback"] - 0.03


def test_a_seed_is_a_dataset(made: Path, tmp_path: Path) -> None:
    synthesize_delayed(tmp_path / "again", SMALL)
    synthesize_delayed(tmp_path / "other", SMALL.model_copy(update={"seed": 1}))
    original, again, other = (
        pq.read_table(folder / "test") for folder in (made, tmp_path / "again", tmp_path / "other")
    )
    assert original.equals(again) and not original.equals(other)


def test_the_smallest(tmp_path: Path) -> None:
    sizes = {"items": 2, "categories": 2, "days": 0.1, "horizon_days": 0.01}
    stats = synthesize_delayed(tmp_path / "d", DelayedConfig(requests=10, max_length=10, candidates=1, **sizes))
    assert [stats[name]["rows"] for name in SPLITS] == [8, 1, 1]
    assert stats["test"]["best_auc"] == stats["test"]["best_auc_with_feedback"] == 0.5


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 5}, "items=5: expected at least one item per category, categories=12"),
        ({"mean_length": 60}, "mean_length=60: expected less than max_length=60"),
        ({"days": 5}, "horizon_days=7: expected less than days=5"),
        ({"noise": 0.0}, r"greater than or equal to 0\.1"),
        ({"feedback_share": 1.5}, "less than or equal to 1"),
        ({"mean_delay_days": 0}, "greater than 0"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DelayedConfig(**settings)
