import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dist_rec.data.columns import ragged_values, scalar_values
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.three import EMPTY_P, ThreeConfig, synthesize_three

SMALL = ThreeConfig(requests=4_000)
SEQUENCES = ("clicks", "search", "feed")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("three") / "small"
    synthesize_three(out, SMALL)
    return out


@pytest.fixture(scope="module")
def train(made: Path) -> pa.Table:
    return pq.read_table(made / "train")


def test_is_a_valid_dataset(made: Path) -> None:
    report = inspect_dataset(made)
    stats = json.loads((made / "stats.json").read_text())
    assert {split.name: split.rows for split in report.splits} == {"train": 3200, "valid": 400, "test": 400}
    for split in report.splits:
        of = stats[split.name]
        assert (split.rows, split.candidates) == (of["rows"], of["candidates"])
        assert split.label_rate == pytest.approx(of["label_rate"])
        for name in SEQUENCES:
            assert split.lengths[name]["max"] == of["max_length"][name]
            assert split.lengths[name]["mean"] == pytest.approx(of["mean_length"][name])
    assert report.cardinality["search.query"] == (24, 24) and report.cardinality["context.scene"] == (2, 2)


def test_schema(made: Path) -> None:
    schema = load_schema(made)
    assert list(schema.feature_groups) == ["user", "scene", "item", "brand"]
    assert schema.candidate.given == {"conversion": "click"}
    assert list(schema.layout.feature_sets) == ["context", "clicks", "search", "feed", "candidate"], (
        "no two with the same fields"
    )


def test_lengths(train: pa.Table) -> None:
    lengths = {name: ragged_values(train, f"{name}.time").lengths for name in SEQUENCES}
    assert lengths["clicks"].max() <= 300 and lengths["search"].max() <= 20 and lengths["feed"].max() <= 30
    assert lengths["clicks"].min() > 0 and 18 < lengths["clicks"].mean() < 27
    for name in ("search", "feed"):
        assert (lengths[name] == 0).mean() == pytest.approx(EMPTY_P, abs=0.02)
    assert ((lengths["search"] == 0) & (lengths["feed"] == 0)).any(), "a request may have neither"


def test_the_truth_is_worth_knowing_and_needs_the_intent(made: Path) -> None:
    test = json.loads((made / "stats.json").read_text())["test"]
    best, popularity = test["best_auc"], test["popularity_auc"]
    assert best["click"] > 0.85 and best["click"] > test["no_interaction_auc"]["click"] + 0.2
    assert test["no_interaction_auc"]["click"] < 0.65 and 0.7 < best["conversion"] < 0.85
    assert popularity["click"] < 0.6 and popularity["conversion"] < 0.65


def test_labels_follow_their_probability(train: pa.Table) -> None:
    click, conversion = (ragged_values(train, f"candidate.{task}").values for task in ("click", "conversion"))
    truth = {task: ragged_values(train, f"candidate.{task}.oracle").values for task in ("click", "conversion")}
    assert not conversion[click == 0].any()
    for label, p in ((click, truth["click"]), (conversion[click == 1], truth["conversion"][click == 1])):
        likely = p > 0.5
        assert label.mean() == pytest.approx(p.mean(), abs=0.02)
        assert label[likely].mean() == pytest.approx(p[likely].mean(), abs=0.03)


@pytest.mark.parametrize(("scene", "empty"), [(0, "search"), (1, "feed")])
def test_the_scene_says_which_sequence_counts(train: pa.Table, scene: int, empty: str) -> None:
    """The truth spreads over requests where the intent is known, and hardly where the sequence of the scene is
    empty."""
    truth = np.reshape(ragged_values(train, "candidate.click.oracle").values, (train.num_rows, -1)).max(1)
    here = scalar_values(train, "scene") == scene
    lengths = {name: ragged_values(train, f"{name}.time").lengths for name in ("search", "feed")}
    (other,) = set(lengths) - {empty}
    known = truth[here & (lengths[empty] > 0)].std()
    assert truth[here & (lengths[empty] == 0)].std() < 0.3 * known
    assert truth[here & (lengths[empty] > 0) & (lengths[other] == 0)].std() == pytest.approx(known, rel=0.3)


def test_splits_are_in_order_of_time(made: Path) -> None:
    times = {name: scalar_values(pq.read_table(made / name), "time") for name in ("train", "valid", "test")}
    assert times["train"].max() <= times["valid"].min() and times["valid"].max() <= times["test"].min()


def test_a_seed_is_a_dataset(made: Path, tmp_path: Path) -> None:
    synthesize_three(tmp_path / "again", SMALL)
    synthesize_three(tmp_path / "other", SMALL.model_copy(update={"seed": 1}))
    original, again, other = (
        pq.read_table(folder / "test") for folder in (made, tmp_path / "again", tmp_path / "other")
    )
    assert original.equals(again) and not original.equals(other)


def test_the_smallest(tmp_path: Path) -> None:
    sizes = {"items": 2, "topics": 6, "brands": 2, "queries": 6, "channels": 6}
    stats = synthesize_three(tmp_path / "d", ThreeConfig(requests=10, max_length=10, candidates=1, **sizes))
    assert [stats[name]["rows"] for name in ("train", "valid", "test")] == [8, 1, 1]
    assert stats["test"]["best_auc"] == {
        "click": 0.5,
        "conversion": 0.5,
    }  # one candidate has nothing to be ranked against


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"items": 5}, "items=5: expected at least one per brand, brands=16"),
        ({"queries": 10}, "queries=10: expected at least one per topic, topics=12"),
        ({"topics": 5}, "greater than or equal to 6"),
        ({"mean_length": 300}, "mean_length=300: expected less than max_length=300"),
    ],
)
def test_wrong_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ThreeConfig(**settings)
