"""The loss of a step: what one task's loss is, and how the losses of all candidates and tasks become one number.

Legend: C candidates, T tasks.
"""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from dist_rec.common.strict import Strict


class Loss:
    """Base of all losses, made by `Name(options)`."""

    Config: ClassVar[type[Strict]] = Strict

    def __init__(self, options: Strict) -> None:
        self.options = options

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """logits and labels (C, T) float32, labels 0 or 1 -> (C, T), the loss of each candidate and task by itself."""
        raise NotImplementedError


class BinaryCrossEntropy(Loss):
    """`-log p` where the label is 1 and `-log(1 - p)` where it is 0, from logits."""

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        return binary_cross_entropy_with_logits(logits, labels, reduction="none")


def total_loss(
    loss: Loss, logits: Tensor, labels: Tensor, candidates_per_rank: Tensor, weights: Tensor | None = None
) -> Tensor:
    """`loss` summed over candidates, averaged over tasks, divided by `candidates_per_rank`.

    logits (C, T), labels (C, T) float32, candidates_per_rank () or (T,), weights (T,) float32 or None for ones -> ().
    A label of NaN is not defined: it adds nothing, its logit gets a gradient of zero, and `candidates_per_rank` still
    counts its candidate. So the weight of a conditional task in the loss is the weight of the candidates that it is
    defined for."""
    undefined = labels.isnan()
    # Both sides are replaced: a weight of zero alone would leave NaN * 0 where a logit is not finite.
    losses = loss(logits.float().masked_fill(undefined, 0.0), labels.masked_fill(undefined, 0.0))
    return weighted_mean(losses, ~undefined, candidates_per_rank, weights)


def weighted_mean(losses: Tensor, defined: Tensor, per_rank: Tensor, weights: Tensor | None = None) -> Tensor:
    """Losses (N, T) where they are defined (N, T) bool, summed, averaged over tasks, divided by `per_rank` () or
    (T,)."""
    weighed = losses * (defined.float() if weights is None else weights * defined)
    # In a step without any candidate the sum is zero and so is the divisor; the loss is then zero, not NaN.
    divisor = losses.shape[1] * per_rank.clamp(min=torch.finfo(torch.float32).tiny)
    return weighed.sum() / divisor if per_rank.dim() == 0 else (weighed.sum(0) / divisor).sum()
