"""A fitted probe finds the domain from labels of events, sessions and users, and says how well."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from dist_rec.common.logistic import best_f1
from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import ragged_values
from dist_rec.data.schema_file import load_schema
from dist_rec.probe.fit import fit_probe
from dist_rec.probe.labels import Level, WeakLabels
from tests.probe.data import DOMAIN, FAST, read


def _users(data: Path, out: Path) -> Path:
    """Those whose events are mostly of the domain."""
    table = pq.read_table(data / "train")
    category = ragged_values(table, "history.category")
    share = np.add.reduceat(np.isin(category.values, DOMAIN), category.offsets[:-1]) / category.lengths
    np.save(out, np.unique(table.column("user").to_numpy()[share > 0.4]))
    return out


@pytest.mark.parametrize(("level", "least"), [("event", 0.9), ("session", 0.8), ("user", 0.7)])
def test_finds_events_that_it_was_not_fitted_on(data: Path, tmp_path: Path, level: Level, least: float) -> None:
    source = str(_users(data, tmp_path / "users.npy")) if level == "user" else "history.is_forget"
    probe = fit_probe(data, WeakLabels(source, level), config=FAST)
    scores, candidates = probe.score(read(data), load_schema(data), candidates=True)
    wanted = np.isin(ragged_values(read(data), "history.category").values, DOMAIN)
    assert best_f1(scores, wanted)[1] > least
    of_candidates = np.isin(ragged_values(read(data), "candidate.category").values, DOMAIN)
    assert candidates[of_candidates].mean() > candidates[~of_candidates].mean() + 0.1
    assert probe.facts.level == level and 0 < probe.facts.found["positive"] < 1


def test_a_share_sets_the_threshold(data: Path) -> None:
    labels = WeakLabels("history.is_forget")
    by_share, by_f1 = (fit_probe(data, labels, share=share, config=FAST) for share in (0.5, None))
    assert by_share.facts.found["above"] == pytest.approx(0.5, abs=0.01) and by_share.facts.chosen_by == "share 0.5"
    assert by_f1.facts.found["f1"] == by_f1.facts.found["best_f1"] > by_share.facts.found["f1"]
    assert by_share.facts.found["best_f1"] == by_f1.facts.found["best_f1"], "the same seed, the same probe"


def test_the_depth_can_be_said(data: Path) -> None:
    labels = WeakLabels("history.is_forget")
    assert fit_probe(data, labels, depth=1, config=FAST).facts.depth == 1
    with pytest.raises(ConfigError, match=r"--depth: expected 0 to 1, the layers of the models, got 2"):
        fit_probe(data, labels, depth=2, config=FAST)


def test_labels_that_say_nothing_are_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "none.txt").write_text("5000\n")
    with pytest.raises(ConfigError, match=r"expected labels of both classes, got 0 positive of \d+"):
        fit_probe(data, WeakLabels(f"item={tmp_path / 'none.txt'}"), config=FAST)
    with pytest.raises(ConfigError, match=r"--labels history.is_bot: the data have no such column"):
        fit_probe(data, WeakLabels("history.is_bot"), config=FAST)
