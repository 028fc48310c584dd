"""The prediction heads: one MLP per task over the same inputs, one logit each; and the loss of all tasks."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from dist_rec.config import HeadConfig


class Head(nn.Module):
    """(C, width) -> logits (C, T): every task has an MLP of its own on the shared representation."""

    def __init__(self, config: HeadConfig, width: int, num_tasks: int) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(_mlp(config, width) for _ in range(num_tasks))

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([mlp(features) for mlp in self.mlps], dim=1)


def binary_loss(logits: Tensor, labels: Tensor, share: Tensor, weights: Tensor | None = None) -> Tensor:
    """Binary cross entropy summed over candidates, averaged over tasks, divided by `share`.

    logits (C, T), labels (C, T) float32, share (), weights (T,) float32 or None for ones -> (). A label that is NaN is not
    defined: it adds nothing, its logit gets a gradient of zero, and `share` still counts its candidate. So the weight of a
    conditional task in the loss is that of the candidates it is defined for.
    """
    undefined = labels.isnan()
    # Both sides are replaced: a weight of zero alone would leave NaN * 0 where a logit is not finite.
    losses = binary_cross_entropy_with_logits(
        logits.float().masked_fill(undefined, 0.0),
        labels.masked_fill(undefined, 0.0),
        weight=(~undefined).float() if weights is None else weights * ~undefined,
        reduction="sum",
    )
    # In a step without any candidate the sum is zero and so is the share; the loss is then zero, not NaN.
    return losses / (labels.shape[1] * share.clamp(min=torch.finfo(torch.float32).tiny))


def _mlp(config: HeadConfig, width: int) -> nn.Sequential:
    """(C, width) -> (C, 1)"""
    layers: list[nn.Module] = []
    for hidden in config.hidden:
        layers += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(config.dropout)]
        width = hidden
    return nn.Sequential(*layers, nn.Linear(width, 1))
