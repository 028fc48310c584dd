"""The expected calibration error, as a metric of one's own of a recipe."""

import numpy as np
from numpy.typing import NDArray

from dist_rec.training.metrics import Metric

BINS = 20


class CalibrationError(Metric):
    """Mean |label rate - mean prediction| of bins with equally many candidates (up to one), weighted by their sizes."""

    @property
    def name(self) -> str:
        return "ece"

    def __call__(self, logits: NDArray[np.float64], labels: NDArray[np.float64], groups: NDArray[np.int64]) -> float:
        predictions = 1 / (1 + np.exp(-logits))
        gap = (predictions - labels)[np.argsort(predictions, kind="stable")]
        return float(sum(abs(part.sum()) for part in np.array_split(gap, BINS)) / max(len(gap), 1))
