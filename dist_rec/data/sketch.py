"""What is known of a column of numbers after it was read in parts: moments of all values, and a sample of them.

Legend: N values of a part.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.numbers import FittedNumber, NumberField, ascending, scaled

MOST_SAMPLED = 1_000_000


@dataclass
class Moments:
    """Mean and variance of all values so far, in float64, added by parts (Chan, Golub and LeVeque, 1979)."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0  # sum of squared differences from the mean

    def add(self, values: NDArray[np.float64]) -> None:
        if not len(values):
            return
        count, mean = len(values), float(values.mean())
        squares, together = float(((values - mean) ** 2).sum()), self.count + count
        apart = mean - self.mean
        self.squares += squares + apart**2 * self.count * count / together
        self.mean += apart * count / together
        self.count = together

    @property
    def std(self) -> float:
        return (self.squares / self.count) ** 0.5 if self.count else 0.0


@dataclass
class NumberSketch:
    """Of the values of one field that are not missing: moments as they are and on the field's scale, the smallest and
    the largest, and a uniform sample of at most `most` of them. The same values in the same order give the same sample,
    in whatever parts they come, and the same moments up to rounding."""

    declared: NumberField
    seed: int = 0
    most: int = MOST_SAMPLED
    missing: int = 0
    plain: Moments = field(default_factory=Moments)
    scaled: Moments = field(default_factory=Moments)
    low: float = np.inf
    high: float = -np.inf

    def __post_init__(self) -> None:
        self._draws = np.random.default_rng(self.seed)
        self._sample, self._keys = np.zeros(0, np.float32), np.zeros(0)

    def add(self, values: NDArray[np.float32]) -> None:
        """(N,) NaN for missing."""
        known = values[~np.isnan(values)]
        self.missing += len(values) - len(known)
        if not len(known):
            return
        self.plain.add(known.astype(np.float64))
        self.scaled.add(scaled(known, self.declared.scale))
        self.low, self.high = min(self.low, float(known.min())), max(self.high, float(known.max()))
        if not self.most:
            return
        # Every value draws a key; those with the smallest keys are the sample.
        keys = np.concatenate([self._keys, self._draws.random(len(known))])
        sample = np.concatenate([self._sample, known])
        if len(keys) > self.most:
            kept = np.argpartition(keys, self.most)[: self.most]
            keys, sample = keys[kept], sample[kept]
        self._keys, self._sample = keys, sample

    @property
    def count(self) -> int:
        """All values, missing ones too."""
        return self.plain.count + self.missing

    @property
    def missing_share(self) -> float:
        return self.missing / self.count if self.count else 0.0

    def fitted(self) -> FittedNumber:
        """Of a field without any value a bin from 0 to 1, with a mean of 0."""
        std = self.scaled.std
        return FittedNumber(
            mean=self.scaled.mean,
            std=std if std > 1e-12 * max(abs(self.scaled.mean), 1e-12) else 1.0,
            bounds=self._bounds(),
            missing=self.missing_share,
        )

    def _bounds(self) -> list[float]:
        """Quantiles that rise in float32, and on the scale: of values that occur often there are fewer."""
        if not self.plain.count:
            return [0.0, 1.0]
        inner = np.linspace(0, 1, self.declared.bins + 1)[1:-1]
        quantiles = np.quantile(self._sample, inner, method="inverted_cdf")
        found = [self.low]
        for bound in [*(float(of) for of in quantiles if of < self.high), self.high]:
            if ascending([found[-1], bound], self.declared.scale):
                found.append(bound)
        return found if len(found) > 1 else [self.low, self.low + max(1.0, abs(self.low))]
