import numpy as np
import pytest

from benchmarks.sharing.calibration_error import BINS, CalibrationError
from dist_rec.common.strict import Strict

GROUPS = np.zeros(0, np.int64)


def _error(predictions: np.ndarray, labels: np.ndarray) -> float:
    return CalibrationError(Strict())(np.log(predictions / (1 - predictions)), labels, GROUPS)


def test_bins_that_miss_their_rate_by_a_tenth() -> None:
    """Half too high and half too low, so that the mean prediction is right and only the bins show it."""
    labels = np.tile([1.0, 0, 0, 0, 0], 8 * BINS)  # every bin has a fifth, whose predictions differ by bin
    predictions = np.where(np.arange(len(labels)) < len(labels) / 2, 0.1, 0.3)
    assert abs(predictions.mean() - labels.mean()) < 1e-12
    assert _error(predictions, labels) == pytest.approx(0.1)


def test_right_predictions_have_no_error() -> None:
    rates = np.repeat((np.arange(BINS) + 1) / (BINS + 1), BINS + 1)
    labels = np.concatenate([np.arange(BINS + 1) < ones for ones in range(1, BINS + 1)]).astype(float)
    order = np.random.default_rng(0).permutation(len(rates))
    assert _error(rates[order], labels[order]) == pytest.approx(0.0, abs=1e-12)


def test_no_candidates() -> None:
    assert _error(np.zeros(0), np.zeros(0)) == 0.0
