from statistics import NormalDist

import numpy as np
import pytest

from dist_rec.data.synthetic.latent import (
    DWELLS,
    FOLLOW_WEIGHT,
    LEAST_NOISE,
    NEXT_EVENTS,
    REACH,
    Latent,
    label_p_given,
    shown_mean,
)
from dist_rec.data.synthetic.parts import sigmoid

SCORES = np.linspace(-12, 12, 25)


def test_label_by_gauss_hermite() -> None:
    nodes, weights = np.polynomial.hermite_e.hermegauss(150)
    expected = label_p_given(SCORES[:, None], nodes) @ (weights / weights.sum())
    assert Latent(0.5, 12).label_p(SCORES) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("noise", [LEAST_NOISE, 0.5, 5.0])
@pytest.mark.parametrize("mean", [0.0, 1.3, -2.0])
@pytest.mark.parametrize(("dwell", "same", "other"), [(0, 0, 0), (7, 1, 1), (15, 0, 2)])
def test_label_with_feedback_by_a_fine_sum(noise: float, mean: float, dwell: int, same: int, other: int) -> None:
    z = np.linspace(-8, 8, 16_001)
    seen = z + mean
    edges = [-np.inf, *(NormalDist(0, (1 + noise**2) ** 0.5).inv_cdf(k / DWELLS) for k in range(1, DWELLS)), np.inf]
    low, high = (np.array([NormalDist(each, noise).cdf(edge) for each in seen]) for edge in edges[dwell : dwell + 2])
    stays = sigmoid(FOLLOW_WEIGHT * seen) + (1 - sigmoid(FOLLOW_WEIGHT * seen)) / 12
    weight = np.exp(-(z**2) / 2) * (high - low) * stays**same * (1 - stays) ** other
    expected = label_p_given(SCORES[:, None], z) @ (weight / weight.sum())
    of = np.full(SCORES.shape, mean), *(np.full(SCORES.shape, count) for count in (dwell, same, other))
    assert Latent(noise, 12).label_p_with_feedback(SCORES, *of) == pytest.approx(expected, abs=1e-6)


def test_what_is_shown_of_a_score_is_on_the_grid() -> None:
    scores = np.array([-100.0, -2.8, -1.8, 0.13, 100.0])
    assert shown_mean(scores, -2.8, 1.0).tolist() == [-REACH, 0.0, 0.5, 1.5, REACH]
    assert not shown_mean(scores, -2.8, 0.0).any()


@pytest.mark.parametrize("shown", [0.0, 1.0])
def test_labels_drawn_from_z_follow_the_probability_with_feedback(shown: float) -> None:
    rng, latent, shape = np.random.default_rng(0), Latent(0.5, 4), (50_000, 2)
    score, z, category = rng.normal(-2, 1, shape), rng.standard_normal(shape), rng.integers(0, 4, shape)
    label = rng.random(shape) < label_p_given(score, z)
    mean = shown_mean(score, -2.0, shown)
    dwell = latent.draw_dwell(z + mean, rng)
    if not shown:
        even = pytest.approx(np.full(DWELLS, 1 / 16), abs=5e-3)
        assert np.bincount(dwell.ravel(), minlength=DWELLS) / dwell.size == even
    follows = latent.draw_next_categories(z + mean, category, rng) == category[..., None]
    same = follows.sum(axis=2)
    p = latent.label_p_with_feedback(score, mean, dwell, same, NEXT_EVENTS - same).ravel()
    for part in np.array_split(np.argsort(p), 10):
        assert label.ravel()[part].mean() == pytest.approx(p[part].mean(), abs=0.02)
    assert latent.label_p(score).mean() == pytest.approx(p.mean(), abs=0.005), "a mean over all feedback"
