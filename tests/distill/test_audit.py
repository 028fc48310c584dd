"""How well feedback alone tells a label, on data where that is planted."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from dist_rec.data.columns import scalar_values
from dist_rec.data.reader import RequestReader
from dist_rec.data.schema_file import load_schema
from dist_rec.data.targets import Targets
from dist_rec.distill import audit
from dist_rec.distill.audit import LeakAudit, feedback_leak_audit, leaks_told
from tests.distill.late import REQUESTS, in_a_fifth, never, of_others, telling, write_late

CANDIDATES = int(REQUESTS * 0.8) * 4


def _reader(data: Path, **options: Any) -> RequestReader:
    return RequestReader(
        folders=[data / "train"], schema=load_schema(data), batch_size=100, shuffle_window=1, **options
    )


def _found(data: Path, **options: Any) -> LeakAudit:
    found = feedback_leak_audit(_reader(data, **options), ["convert"])
    assert list(found) == ["convert"]
    return found["convert"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_late(tmp_path_factory.mktemp("audit") / "data")


def test_feedback_with_noise_tells_some(data: Path) -> None:
    """The best is about .81: label and feedback are tied by a latent value, which feedback shows with noise."""
    found = _found(data)
    assert 0.7 < found.auc < 0.85 and not found.leaks
    assert (found.candidates, found.with_feedback) == (CANDIDATES, CANDIDATES)
    # How a batch is made changes nothing: the same rows in the same order.
    assert _found(data, dedup=False, max_length=1, hash_ngrams=False) == found


def test_feedback_of_others_tells_nothing(tmp_path: Path) -> None:
    assert _found(write_late(tmp_path / "data", of_others)).auc == pytest.approx(0.5, abs=0.06)


def test_a_column_that_equals_the_label_is_found(tmp_path: Path) -> None:
    found = _found(write_late(tmp_path / "data", telling))
    assert found.auc > 0.99 and found.leaks


def test_a_leak_in_the_few_that_have_feedback_is_found(tmp_path: Path) -> None:
    """Among all, those without feedback would hide it."""
    found = _found(write_late(tmp_path / "data", lambda table: in_a_fifth(telling(table))))
    assert found.auc_with_feedback > 0.99 and found.leaks
    assert 0.1 < found.with_feedback / CANDIDATES < 0.3


def test_candidates_without_an_event_count_among_all() -> None:
    """The first number of features is that of events."""
    rng, count = np.random.default_rng(0), 4000
    labels = (rng.random(count) < 0.5).astype(np.float32)
    events = rng.random(count) < 0.2
    features = np.stack([events, events & (labels == 1)], axis=1).astype(np.uint8)
    found = audit._audited(features, labels, np.arange(count) % 2 == 0)
    assert found.candidates == count and found.with_feedback == events.sum()
    assert found.auc < 0.7 and found.auc_with_feedback > 0.99 and found.leaks
    # Known of all, but of too few of those that have feedback.
    features[100:] = 0
    found = audit._audited(features, labels, np.arange(count) % 2 == 0)
    assert found.auc == pytest.approx(0.5, abs=0.02) and math.isnan(found.auc_with_feedback) and not found.leaks


def test_labels_that_are_not_final_are_left_out(data: Path) -> None:
    table = pq.read_table(data / "train")
    time, horizon = scalar_values(table, "time"), load_schema(data).candidate.delayed["convert"].horizon
    assert horizon is not None
    now = int(np.quantile(time, 0.7))
    found = _found(data, targets=Targets(now=now))
    assert found.candidates == 4 * (time <= now - horizon).sum() < CANDIDATES and found.auc > 0.65


def test_only_so_many_candidates_are_read(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "MOST_CANDIDATES", 1000)
    assert _found(data).candidates == 1200  # of whole batches


@pytest.mark.parametrize("now", [None, 0])
def test_without_labels_of_both_classes_nothing_is_known(tmp_path: Path, now: int | None) -> None:
    data = write_late(tmp_path / "data", never if now is None else None, requests=200)
    found = _found(data, targets=Targets(now=now))
    assert math.isnan(found.auc) and not found.leaks and leaks_told({"convert": found}, []) == ""
    assert found.candidates == (640 if now is None else 0)
    assert "convert: whether feedback alone tells it is unknown, for lack of labels" in found.told("convert")


def test_a_few_labels_are_too_few(data: Path) -> None:
    features, half = np.ones((40, 2), np.uint8), np.arange(40) % 2 == 0
    labels = (np.arange(40) < 20).astype(np.float32)
    assert audit._audited(features, labels, half).auc == 0.5
    labels[:2] = np.nan  # one of each half
    assert math.isnan(audit._audited(features, labels, half).auc)


def test_what_is_said() -> None:
    found = LeakAudit(auc=0.78, candidates=18_000, with_feedback=9_000, auc_with_feedback=0.84)
    assert found.told("convert") == (
        "convert: feedback alone tells it with AUC 0.780, and with AUC 0.840 where there is some (limit 0.95; 18,000 "
        "candidates with a final label, 50 % with feedback)"
    )
    assert "AUC 0.780, and with AUC unknown where" in replace(found, auc_with_feedback=math.nan).told("convert")
    of_all = replace(found, with_feedback=18_000, auc_with_feedback=0.78)
    assert "tells it with AUC 0.780 (limit 0.95; 18,000" in of_all.told("convert")
    assert not found.leaks and replace(found, auc=0.97).leaks
    leaking = replace(found, auc_with_feedback=0.97)
    both = {"click": leaking, "buy": leaking, "convert": found}
    told = leaks_told(both, ["buy"])
    assert "feedback alone tells click with AUC 0.970, above the limit of 0.95" in told
    assert "distill.allow_leak: [click]" in told and "buy" not in told
    assert "click with AUC 0.970 and buy with AUC 0.970" in leaks_told(both, [])
    assert leaks_told(both, ["click", "buy"]) == ""
