"""The latent value of a candidate, which its label depends on and which leaves traces in its feedback.

z is drawn from N(0, 1) for each candidate and stored nowhere. What a server knows gives a candidate its score x, and

    P(label | x, z) = sigmoid(x + 2 z)
    dwell of the first event of its feedback = bucket of z + noise * N(0, 1)
    P(a next event follows | z), that is, stays in its category = sigmoid(1.5 z); others visit any category

Given z, label and feedback are independent. So P(label | x) and P(label | x, feedback) are integrals over z, which are
sums over a grid here. The integrands are smooth and end with the normal density, where equal steps are as good as
Gauss-Hermite nodes and take the buckets of `dwell` too.

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

GRID = np.arange(-60, 61) / 10
WEIGHT = np.exp(-(GRID**2) / 2) / np.exp(-(GRID**2) / 2).sum()


class Latent:
    """What is drawn from z, and what is known of a label without z."""

    def __init__(self, noise: float, categories: int) -> None:
        self.noise, self.categories = noise, categories
        of_all = NormalDist(0, (1 + noise**2) ** 0.5)
        self._edges = np.array([of_all.inv_cdf(bucket / DWELLS) for bucket in range(1, DWELLS)])
        self._posterior = self._grid_given_feedback()

    def draw_dwell(self, z: Floats, rng: np.random.Generator) -> Ints:
        """Buckets in the shape of z."""
        return np.searchsorted(self._edges, z + self.noise * rng.standard_normal(z.shape))

    def draw_next_categories(self, z: Floats, category: Ints, rng: np.random.Generator) -> Ints:
        """(B, C, NEXT_EVENTS) of the candidates' z and category (B, C)."""
        shape = (*z.shape, NEXT_EVENTS)
        follows = rng.random(shape) < sigmoid(FOLLOW_WEIGHT * z)[..., None]
        return np.where(follows, category[..., None], rng.integers(0, self.categories, shape))

    def label_p(self, score: Floats) -> Floats:
        """P(label | x) of scores x, in their shape."""
        found = np.zeros_like(score)
        for z, weight in zip(GRID, WEIGHT):
            found += weight * label_p_given(score, z)
        return found

    def label_p_with_feedback(self, score: Floats, dwell: Ints, same: Ints, other: Ints) -> Floats:
        """P(label | x, feedback) of scores x, in their shape, as are the bucket of `dwell` and the numbers of next
        events in the `same` category as the candidate and in `other` ones."""
        found = np.zeros_like(score)
        for z, weight in zip(GRID, self._posterior):
            found += weight[dwell, same, other] * label_p_given(score, z)
        return found

    def _grid_given_feedback(self) -> Floats:
        """(nodes, DWELLS, same, other) the weight of each node of the grid given feedback."""
        below = np.array([[NormalDist(z, self.noise).cdf(edge) for edge in self._edges] for z in GRID])
        dwell = np.diff(below, axis=1, prepend=0, append=1)
        follows = sigmoid(FOLLOW_WEIGHT * GRID)
        stays = follows + (1 - follows) / self.categories
        count = np.arange(NEXT_EVENTS + 1)
        next_events = stays[:, None, None] ** count[:, None] * (1 - stays[:, None, None]) ** count
        joint = (WEIGHT[:, None] * dwell)[..., None, None] * next_events[:, None]
        return joint / joint.sum(axis=0)


def label_p_given(score: Floats, z: Floats | float) -> Floats:
    """P(label | x, z)."""
    return sigmoid(score + LABEL_WEIGHT * z)
