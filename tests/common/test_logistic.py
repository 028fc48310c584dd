"""The regression against scikit-learn's, and thresholds against counting."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score

from dist_rec.common.logistic import best_f1, f1_at, fit_logistic, threshold_of_share


def _data(n: int = 400, features: int = 5) -> tuple[torch.Tensor, np.ndarray]:
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, [1, 2, 5, 0.1, 1], (n, features))
    y = rng.random(n) < 1 / (1 + np.exp(-(x[:, 0] - x[:, 1] * 0.5 - 3)))
    return torch.from_numpy(x).float(), y


def test_is_the_regression_of_scikit_learn() -> None:
    x, y = _data()
    mine = fit_logistic(x, y, l2=0.01)
    scaled = ((x.double() - mine.mean) / mine.scale).numpy()
    # scikit-learn sums weighted losses, whose weights here sum to N: C = 1 / (N * l2).
    theirs = LogisticRegression(C=1 / (len(y) * 0.01), class_weight="balanced", tol=1e-10, max_iter=1000).fit(scaled, y)
    np.testing.assert_allclose(mine.weight.numpy(), theirs.coef_[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(mine.scores(x), theirs.predict_proba(scaled)[:, 1], atol=1e-5)


def test_a_constant_feature_is_no_trouble() -> None:
    x, y = _data()
    assert np.isfinite(fit_logistic(torch.cat([x, torch.ones(len(x), 1)], dim=1), y).scores(torch.ones(2, 6))).all()


@pytest.mark.parametrize("labels", [np.zeros(4, bool), np.ones(4, bool), np.zeros(0, bool)])
def test_labels_of_one_class_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"both classes, got (0|4) positive of (0|4)"):
        fit_logistic(torch.randn(len(labels), 2), labels)


@given(
    scores=st.lists(st.integers(0, 6), min_size=1, max_size=25),
    labels=st.lists(st.booleans(), min_size=25, max_size=25),
)
def test_no_threshold_has_a_better_f1(scores: list[int], labels: list[bool]) -> None:
    s, y = np.array(scores) / 6, np.array(labels[: len(scores)])
    if not y.any():
        with pytest.raises(ValueError, match="a positive label"):
            best_f1(s, y)
        return
    threshold, f1 = best_f1(s, y)
    assert f1 == pytest.approx(f1_at(s, y, threshold)) == pytest.approx(f1_score(y, s > threshold, zero_division=0))
    assert all(f1 >= f1_at(s, y, at) - 1e-12 for at in np.arange(-1, 14) / 12)


@given(share=st.floats(0.01, 0.99), n=st.integers(1, 60))
def test_at_most_the_share_is_above(share: float, n: int) -> None:
    scores = np.random.default_rng(n).random(n)
    above = (scores > threshold_of_share(scores, share)).mean()
    assert share - 1 / n - 1e-9 <= above <= share + 1e-9


@pytest.mark.parametrize(("share", "n"), [(0.0, 3), (1.0, 3), (0.5, 0)])
def test_a_share_needs_scores(share: float, n: int) -> None:
    with pytest.raises(ValueError, match="a share between 0 and 1"):
        threshold_of_share(np.zeros(n), share)
