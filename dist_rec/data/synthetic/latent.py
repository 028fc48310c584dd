"""The latent value of a candidate, which its label depends on and which leaves traces in its feedback.

z is drawn from N(0, 1) for each candidate and stored nowhere. What a server knows gives a candidate its score x, of
which feedback shows m = shown (x - bias) / 2, and

    P(label | x, z) = sigmoid(x + 2 z)
    dwell of the first event of its feedback = bucket of z + m + noise * N(0, 1)
    P(a next event follows | z, x), that is, stays in its category = sigmoid(1.5 (z + m)); others visit any category

With `shown` 0 feedback tells of z alone, which nothing in x predicts; with 1 all that x says of a label can be seen in
feedback too. The law of labels is the same.

Given x and z, label and feedback are independent. So P(label | x) and P(label | x, feedback) are integrals over z,
which are sums over a grid here. The integrands are smooth and end with the normal density, where equal steps are as
good as Gauss-Hermite nodes and take the buckets of `dwell` too. m is a multiple of the step of the grid.

B requests of C candidates."""

from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from dist_rec.data.columns import Ints
from dist_rec.data.synthetic.parts import sigmoid

Floats = NDArray[np.float64]
LABEL_WEIGHT = 2.0
FOLLOW_WEIGHT = 1.5
DWELLS = 16  # buckets, equally likely
NEXT_EVENTS = 2  # at most
LEAST_NOISE = 0.1  # below it, steps of the grid are too wide

STEPS = 10  # of the grid in a standard deviation of z
REACH = 6  # of z, and of m, in standard deviations
GRID = np.arange(-REACH * STEPS, REACH * STEPS + 1) / STEPS
WEIGHT = np.exp(-(GRID**2) / 2) / np.exp(-(GRID**2) / 2).sum()
SEEN = np.arange(-2 * REACH * STEPS, 2 * REACH * STEPS + 1) / STEPS  # of z + m


class Latent:
    """What is drawn from z, and what is known of a label without z."""

    def __init__(self, noise: float, categories: int) -> None:
        self.noise, self.categories = noise, categories
        of_all = NormalDist(0, (1 + noise**2) ** 0.5)
        self._edges = np.array([of_all.inv_cdf(bucket / DWELLS) for bucket in range(1, DWELLS)])
        self._likelihood = self._of_feedback()

    def draw_dwell(self, seen: Floats, rng: np.random.Generator) -> Ints:
        """Buckets in the shape of `seen`, z + m."""
        return np.searchsorted(self._edges, seen + self.noise * rng.standard_normal(seen.shape))

    def draw_next_categories(self, seen: Floats, category: Ints, rng: np.random.Generator) -> Ints:
        """(B, C, NEXT_EVENTS) of the candidates' z + m and category (B, C)."""
        shape = (*seen.shape, NEXT_EVENTS)
        follows = rng.random(shape) < sigmoid(FOLLOW_WEIGHT * seen)[..., None]
        return np.where(follows, category[..., None], rng.integers(0, self.categories, shape))

    def label_p(self, score: Floats) -> Floats:
        """P(label | x) of scores x, in their shape."""
        found = np.zeros_like(score)
        for z, weight in zip(GRID, WEIGHT):
            found += weight * label_p_given(score, z)
        return found

    def label_p_with_feedback(self, score: Floats, mean: Floats, dwell: Ints, same: Ints, other: Ints) -> Floats:
        """P(label | x, feedback) of scores x, in their shape, as are m, the bucket of `dwell` and the numbers of next
        events in the `same` category as the candidate and in `other` ones."""
        found, total = np.zeros_like(score), np.zeros_like(score)
        first = REACH * STEPS + np.rint(mean * STEPS).astype(np.int64)  # of z = -REACH among SEEN
        for node, (z, weight) in enumerate(zip(GRID, WEIGHT)):
            likely = weight * self._likelihood[first + node, dwell, same, other]
            total += likely
            found += likely * label_p_given(score, z)
        return found / total

    def _of_feedback(self) -> Floats:
        """(SEEN, DWELLS, same, other) the probability of feedback given z + m, up to a factor of the events' order."""
        below = np.array([[NormalDist(seen, self.noise).cdf(edge) for edge in self._edges] for seen in SEEN])
        dwell = np.diff(below, axis=1, prepend=0, append=1)
        follows = sigmoid(FOLLOW_WEIGHT * SEEN)
        stays = follows + (1 - follows) / self.categories
        count = np.arange(NEXT_EVENTS + 1)
        next_events = stays[:, None, None] ** count[:, None] * (1 - stays[:, None, None]) ** count
        return dwell[..., None, None] * next_events[:, None]


def shown_mean(score: Floats, bias: float, shown: float) -> Floats:
    """m of scores x, in their shape: a multiple of the grid's step, within its reach."""
    m = np.rint(STEPS * shown * (score - bias) / LABEL_WEIGHT) / STEPS
    return m.clip(-REACH, REACH)


def label_p_given(score: Floats, z: Floats | float) -> Floats:
    """P(label | x, z)."""
    return sigmoid(score + LABEL_WEIGHT * z)
