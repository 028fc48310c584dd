"""A logistic regression on rows of numbers, such as frozen states of events, and thresholds on its scores.

Legend: N rows, F numbers of a row.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ITERATIONS = 200


@dataclass(frozen=True)
class Logistic:
    """`sigmoid(((x - mean) / scale) @ weight + bias)`; weight, mean, scale (F,) and bias () float64."""

    weight: Tensor
    bias: Tensor
    mean: Tensor
    scale: Tensor

    def scores(self, states: Tensor) -> NDArray[np.float64]:
        """(N, F) -> (N,) from 0 to 1."""
        return torch.sigmoid((states.double() - self.mean) / self.scale @ self.weight + self.bias).numpy()


def fit_logistic(states: Tensor, labels: NDArray[np.bool_], *, l2: float = 1e-3) -> Logistic:
    """Least mean cross-entropy with both classes weighed alike, plus `l2 / 2` of the squared weights, by L-BFGS in
    float64. states (N, F), labels (N,).

    Raises ValueError for labels of one class."""
    found = torch.from_numpy(labels)
    positive = float(found.double().mean()) if len(found) else 0.0
    if not 0 < positive < 1:
        raise ValueError(f"expected labels of both classes, got {int(found.sum())} positive of {len(found)}")
    mean, scale = states.double().mean(0), states.double().std(0, correction=0).clamp(min=1e-6)
    x = (states.double() - mean) / scale
    target = found.double()
    each = torch.where(found, 0.5 / positive, 0.5 / (1 - positive))
    weight = torch.zeros(x.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    lbfgs = torch.optim.LBFGS(
        [weight], max_iter=ITERATIONS, tolerance_grad=1e-8, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        lbfgs.zero_grad()
        logits = x @ weight[:-1] + weight[-1]
        entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, each)
        value = entropy + 0.5 * l2 * weight[:-1].square().sum()
        value.backward()
        return value

    lbfgs.step(loss)  # pyright: ignore[reportArgumentType] - a closure may return a tensor
    return Logistic(weight[:-1].detach(), weight[-1].detach(), mean, scale)


def best_f1(scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> tuple[float, float]:
    """The threshold with the best F1 of `scores > threshold`, halfway between two scores, and that F1. (N,) each.

    Raises ValueError without a positive label."""
    if not labels.any():
        raise ValueError(f"expected a positive label to choose a threshold by, got none of {len(labels)}")
    order = np.argsort(-scores, kind="stable")
    ranked, hits = scores[order], np.cumsum(labels[order])
    f1 = 2 * hits / (np.arange(1, len(ranked) + 1) + labels.sum())
    f1[:-1][ranked[:-1] == ranked[1:]] = -1.0  # a threshold does not part equal scores
    at = int(np.argmax(f1))
    if at + 1 == len(ranked):  # every event
        return float(np.nextafter(ranked[at], -1.0)), float(f1[at])
    return float((ranked[at] + ranked[at + 1]) / 2), float(f1[at])


def threshold_of_share(scores: NDArray[np.float64], share: float) -> float:
    """The threshold above which at most `share` of the scores (N,) are. Raises ValueError for a share outside (0, 1)
    and without scores."""
    if not 0 < share < 1 or not len(scores):
        raise ValueError(f"expected a share between 0 and 1 of at least one score, got {share} of {len(scores)}")
    ranked = np.sort(scores)[::-1]
    return float(ranked[min(int(share * len(ranked)), len(ranked) - 1)])


def f1_at(scores: NDArray[np.float64], labels: NDArray[np.bool_], threshold: float) -> float:
    """F1 of `scores > threshold`; 0 if nothing is found or to be found."""
    found = scores > threshold
    return float(2 * (found & labels).sum() / max(found.sum() + labels.sum(), 1))
