"""AUC against scikit-learn."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score

from dist_rec.common.auc import auc, grouped_auc

# Few distinct scores make ties; wide ones would all be 1.0 behind a sigmoid.
SCORES = st.one_of(st.sampled_from([-1.0, 0.0, 0.25, 2.0]), st.floats(-1e4, 1e4, width=32))
CANDIDATES = st.lists(st.tuples(SCORES, st.integers(0, 1), st.integers(0, 5)), max_size=60)
EXACT = 1e-12  # float64 sums in another order


def _columns(candidates: list[tuple[float, int, int]]) -> tuple[NDArray, NDArray, NDArray]:
    scores, labels, groups = np.array(candidates).reshape(-1, 3).T
    return scores, labels, groups.astype(np.int64)


def _both_classes(labels: NDArray) -> bool:
    return 0 < labels.sum() < len(labels)


@settings(deadline=None, max_examples=200)
@given(CANDIDATES)
def test_auc_is_that_of_scikit_learn(candidates: list[tuple[float, int, int]]) -> None:
    scores, labels, _ = _columns(candidates)
    got = auc(scores, labels)
    if not _both_classes(labels):
        assert math.isnan(got)
    else:
        assert got == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)


def test_auc_tells_large_logits_apart() -> None:
    """All of these are 1.0 behind a float64 sigmoid."""
    scores, labels = np.array([40.0, 50.0, 60.0, 70.0]), np.array([0.0, 0.0, 1.0, 1.0])
    assert auc(scores, labels) == 1.0


def test_auc_does_not_round_to_float32() -> None:
    scores, labels = np.arange(1001.0), np.arange(1001) % 7 == 0
    assert auc(scores, labels) == pytest.approx(roc_auc_score(labels, scores), abs=EXACT)


@settings(deadline=None, max_examples=200)
@given(CANDIDATES)
def test_grouped_auc_is_the_weighted_mean_over_groups_with_both_classes(
    candidates: list[tuple[float, int, int]],
) -> None:
    scores, labels, groups = _columns(candidates)
    areas, weights = [], []
    for group in set(groups.tolist()):
        mine = groups == group
        if _both_classes(labels[mine]):
            areas.append(roc_auc_score(labels[mine], scores[mine]))
            weights.append(mine.sum())
    got = grouped_auc(scores, labels, groups)
    if not areas:
        assert math.isnan(got)
    else:
        assert got == pytest.approx(np.average(areas, weights=weights), abs=EXACT)


def test_a_score_that_is_no_number_has_no_auc() -> None:
    assert math.isnan(auc(np.array([0.1, np.nan]), np.array([0, 1])))
