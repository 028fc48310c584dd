"""A field that holds a number, such as a price, as a schema declares it, and what a fit over training data found of it.

Does not import torch: the encodings as a model computes them are in models/layers/numbers.py.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from dist_rec.common.choices import Encoding
from dist_rec.common.strict import Size, Strict

FIT = "run `dist-rec data fit DATASET`"


class FittedNumber(Strict):
    """Found in the training split by `dist-rec data fit`, among the values that are not missing."""

    mean: float = Field(description="Of the scaled values.")
    std: float = Field(gt=0.0, description="Of the scaled values; 1 where all are equal.")
    bounds: list[float] = Field(min_length=2, description="Quantiles, the smallest and the largest value included.")
    missing: float = Field(ge=0.0, le=1.0, description="Share of the values that are missing.")


class NumberField(Strict):
    """One number of a request, an event, a candidate or an id; null or NaN means that it is missing."""

    scale: Literal["linear", "log"] = Field(
        default="linear", description="log: sign(x) log(1 + |x|), for values over several orders of magnitude."
    )
    encoding: Encoding = Field(
        default="piecewise",
        description="value: standardised, and whether it is missing. buckets: an embedding per bucket and one of "
        "missing; the bucket is sent in the place of the number. piecewise: how far the number reaches into every "
        "bin (piecewise-linear encoding, arXiv 2203.05556, section 3.1), with a learned row of missing.",
    )
    bounds: list[float] | None = Field(
        default=None, min_length=1, description="Borders between buckets, ascending; null: quantiles, to be fitted."
    )
    bins: Size = Field(default=16, ge=2, le=1024, description="Bins between quantiles that a fit looks for.")
    fitted: FittedNumber | None = Field(default=None, description="Written by `dist-rec data fit`.")

    @model_validator(mode="after")
    def _check(self) -> "NumberField":
        for place, bounds in (("bounds", self.bounds), ("fitted.bounds", self.fitted and self.fitted.bounds)):
            if bounds is not None and not ascending(bounds, self.scale):
                raise ValueError(f"{place}: expected numbers that rise, in float32 and on the scale, got {bounds}")
        if self.encoding == "piecewise" and self.bounds is not None and len(self.bounds) < 2:
            raise ValueError(f"bounds: piecewise needs two or more, the ends of its bins, got {self.bounds}")
        return self

    @property
    def is_fitted(self) -> bool:
        """Whether all is known that its encoding needs."""
        return self.fitted is not None or (self.bounds is not None and self.encoding != "value")

    @property
    def num_buckets(self) -> int | None:
        """Of a number that is sent as a bucket, the last one for missing; None for one that is sent as it is."""
        if self.encoding != "buckets" or not self.is_fitted:
            return None
        return len(self._borders) + 2

    @property
    def num_columns(self) -> int:
        """K of the encoding of a number that is sent as it is: 1 of its value, or one per bin, then 1 of missing."""
        return 2 if self.encoding == "value" else len(self.knots)

    @property
    def knots(self) -> NDArray[np.float32]:
        """The scaled ends of the bins of the piecewise-linear encoding."""
        return scaled(np.array(self._bounds), self.scale).astype(np.float32)

    def buckets_of(self, values: NDArray) -> NDArray[np.int64]:
        """(N,) numbers, NaN for missing -> (N,) from 0 on: the first bucket is below the first border, which itself is
        in the second."""
        values = values.astype(np.float32, copy=False)
        found = np.searchsorted(self._borders, values, side="right")
        return np.where(np.isnan(values), len(self._borders) + 1, found)

    @property
    def _borders(self) -> NDArray[np.float32]:
        """Of the buckets. Nothing in training is below or above the ends of quantiles, which are no borders."""
        bounds = self._bounds if self.bounds is not None else self._bounds[1:-1]
        return np.array(bounds, np.float32)

    @property
    def _bounds(self) -> list[float]:
        assert self.bounds is not None or self.fitted is not None, "checked at the door"
        return self.bounds if self.bounds is not None else self.fitted.bounds if self.fitted is not None else []


def scaled(values: NDArray, scale: str) -> NDArray[np.float64]:
    values = values.astype(np.float64)
    return np.sign(values) * np.log1p(np.abs(values)) if scale == "log" else values


def ascending(bounds: list[float], scale: str) -> bool:
    """Whether each is larger than the one before, as a model and a reader worker see them."""
    with np.errstate(over="ignore"):
        raw = np.array(bounds, np.float32)
    if not np.isfinite(raw).all():
        return False
    return bool((np.diff(raw) > 0).all() and (np.diff(scaled(raw, scale).astype(np.float32)) > 0).all())


def as_sent(numbers: Mapping[str, NumberField]) -> dict[str, NumberField]:
    """Those that are sent as float32."""
    return {name: of for name, of in numbers.items() if of.num_buckets is None}


def as_buckets(numbers: Mapping[str, NumberField]) -> dict[str, int]:
    """Those that are sent as buckets: name -> number of buckets."""
    return {name: of.num_buckets for name, of in numbers.items() if of.num_buckets is not None}
