"""The prediction head: one MLP over the concatenated inputs, one logit per task."""

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from dist_rec.config import HeadConfig


class Head(nn.Module):
    """(C, width) -> logits (C, T)."""

    def __init__(self, config: HeadConfig, width: int, num_tasks: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.GELU(), nn.Dropout(config.dropout)]
            width = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(width, num_tasks))

    def forward(self, features: Tensor) -> Tensor:
        return self.mlp(features)


def binary_loss(logits: Tensor, labels: Tensor, share: Tensor) -> Tensor:
    """Binary cross entropy summed over candidates, averaged over tasks, divided by `share`: (C, T), (C, T), () -> ()."""
    losses = binary_cross_entropy_with_logits(logits.float(), labels, reduction="sum")
    # In a step without any candidate the sum is zero and so is the share; the loss is then zero, not NaN.
    return losses / (labels.shape[1] * share.clamp(min=torch.finfo(torch.float32).tiny))
