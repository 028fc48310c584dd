import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dist_rec.data.columns import ragged_values, scalar_values
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.synthetic.history import SynthConfig, synthesize

SMALL = SynthConfig(requests=2_000, max_length=300, items=500, categories=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "small"
    synthesize(out, SMALL)
    return out


def test_is_a_valid_dataset(made: Path) -> None:
    report = inspect_dataset(made)
    stats = json.loads((made / "stats.json").read_text())
    assert {split.name: split.rows for split in report.splits} == {"train": 1600, "valid": 200, "test": 200}
    for split in report.splits:
        of = stats[split.name]
        assert (split.rows, split.candidates) == (of["rows"], of["candidates"])
        assert split.label_rate["click"] == pytest.approx(of["label_rate"])
        assert split.lengths["history"]["max"] == of["max_length"] <= 300
    assert report.cardinality["history.category"] == (8, 8)


def test_the_truth_is_worth_knowing(made: Path) -> None:
    test = json.loads((made / "stats.json").read_text())["test"]
    assert test["best_auc"] > 0.8 > 0.7 > test["popularity_auc"]


def test_labels_follow_their_probability(made: Path) -> None:
    table = pq.read_table(made / "train")
    truth = ragged_values(table, "candidate.click.oracle").values
    label = ragged_values(table, "candidate.click").values
    likely = truth > 0.5
    assert label.mean() == pytest.approx(truth.mean(), abs=0.02)
    assert label[likely].mean() == pytest.approx(truth[likely].mean(), abs=0.03)


def test_splits_are_in_order_of_time(made: Path) -> None:
    times = {name: scalar_values(pq.read_table(made / name), "time") for name in ("train", "valid", "test")}
    assert times["train"].max() <= times["valid"].min() and times["valid"].max() <= times["test"].min()


def test_a_seed_is_a_dataset(made: Path, tmp_path: Path) -> None:
    synthesize(tmp_path / "again", SMALL)
    synthesize(tmp_path / "other", SMALL.model_copy(update={"seed": 1}))
    original, again, other = (
        pq.read_table(folder / "test") for folder in (made, tmp_path / "again", tmp_path / "other")
    )
    assert original.equals(again) and not original.equals(other)


def test_duplicates_at_the_default_sizes(tmp_path: Path) -> None:
    stats = synthesize(tmp_path / "d", SynthConfig(requests=3_000))
    assert 0.70 <= stats["train"]["duplicate_share"] <= 0.80


def test_histories_of_ten_thousand_events(tmp_path: Path) -> None:
    stats = synthesize(
        tmp_path / "d", SynthConfig(requests=40, users=40, max_length=10_000, mean_length=9_000, candidates=2)
    )
    assert 8_000 <= max(split["max_length"] for split in stats.values()) <= 10_000


def test_the_smallest(tmp_path: Path) -> None:
    stats = synthesize(tmp_path / "d", SynthConfig(requests=10, max_length=10, candidates=1, items=2, categories=2))
    assert [stats[name]["rows"] for name in ("train", "valid", "test")] == [8, 1, 1]
    assert stats["test"]["best_auc"] == 0.5  # one candidate has nothing to be ranked against


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 5, "categories": 8}, "items=5: expected at least one item per category, categories=8"),
        ({"mean_length": 500, "max_length": 400}, "mean_length=500: expected less than max_length=400"),
        ({"requests": 0}, "greater than or equal to 10"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SynthConfig(**settings)


@pytest.fixture(scope="module")
def with_domain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("synth") / "domain"
    synthesize(out, SMALL.model_copy(update={"forget_share": 0.2}))
    return out


def test_events_of_the_forget_domain_lie_between_the_others(with_domain: Path) -> None:
    stats = json.loads((with_domain / "stats.json").read_text())
    assert (with_domain / "forget_categories.txt").read_text() == "6\n7\n"
    table = pq.read_table(with_domain / "train")
    history = ragged_values(table, "history.category")
    forget = history.values >= 6
    assert forget.mean() == pytest.approx(0.2, abs=0.03) == stats["train"]["forget_share"]
    ends = np.zeros(len(forget), dtype=bool)
    ends[history.offsets[1:-1]] = True
    neighbours = forget[1:] & ~forget[:-1] & ~ends[1:]
    assert neighbours.sum() > 0.3 * forget.sum(), "they are mixed into the others"
    of_request = np.add.reduceat(forget, history.offsets[:-1]) / history.lengths
    assert (of_request < 0.05).mean() > 0.2 and (of_request > 0.4).mean() > 0.1, "users differ"


def test_both_domains_can_be_told_apart_and_learned(with_domain: Path) -> None:
    test = json.loads((with_domain / "stats.json").read_text())["test"]
    assert test["best_auc_forget"] > 0.8 and test["best_auc_retain"] > 0.8
    category = ragged_values(pq.read_table(with_domain / "test"), "candidate.category").values
    assert 0.1 < (category >= 6).mean() < 0.3


def test_without_a_share_there_is_no_domain(made: Path) -> None:
    stats = json.loads((made / "stats.json").read_text())
    assert not (made / "forget_categories.txt").exists() and "forget_share" not in stats["train"]
    assert ragged_values(pq.read_table(made / "train"), "history.category").values.max() == 7
