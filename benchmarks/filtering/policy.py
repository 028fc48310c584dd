"""Labels of a forget domain that are noisy in a known way, as a filter policy of one's own."""

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dist_rec.common.strict import Strict
from dist_rec.data.filter.actions import Reason
from dist_rec.data.filter.events import Events
from dist_rec.data.filter.policy import FilterPolicy


class NoisyOptions(Strict):
    """An event is filtered if `domain + noise * z > above`, z normal; `flip`: then its decision is turned round with
    this probability. Both depend on the event alone, wherever it turns up."""

    field: str = "category"
    domain: list[int]
    noise: float = 0.0
    above: float = 0.5
    flip: float = 0.0
    seed: int = 0


class NoisyDomain(FilterPolicy):
    Config: ClassVar[type[Strict]] = NoisyOptions

    def reasons(self, events: Events) -> NDArray[np.uint8]:
        options = self.options
        assert isinstance(options, NoisyOptions)
        score = np.isin(events.field(options.field), options.domain).astype(np.float64)
        first, second, third = (uniform(events.key, 3 * options.seed + place) for place in range(3))
        score += options.noise * np.sqrt(-2 * np.log(first)) * np.cos(2 * np.pi * second)
        return ((score > options.above) ^ (third < options.flip)).astype(np.uint8) * np.uint8(Reason.UNLEARN)


def uniform(key: NDArray[np.uint64], stream: int) -> NDArray[np.float64]:
    """(N,) in (0, 1), by SplitMix64 from (N,) keys and the number of a stream."""
    key = key + np.uint64(0x9E3779B97F4A7C15 * (stream + 1) % 2**64)
    key = (key ^ (key >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    key = (key ^ (key >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return ((key ^ (key >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53 + 2.0**-54
