"""The prediction heads: one MLP per task over the same inputs, one logit each."""

import torch
from torch import Tensor, nn

from dist_rec.models.config import HeadConfig
from dist_rec.models.layers.activation import GELU
from dist_rec.models.layers.linear import Linear


class Head(nn.Module):
    """(C, width) -> logits (C, T): every task has an MLP of its own on the shared representation."""

    def __init__(self, config: HeadConfig, width: int, num_tasks: int) -> None:
        super().__init__()
        self.mlps = nn.ModuleList(_mlp(config, width) for _ in range(num_tasks))

    def forward(self, features: Tensor) -> Tensor:
        return torch.cat([mlp(features) for mlp in self.mlps], dim=1)


def _mlp(config: HeadConfig, width: int) -> nn.Sequential:
    """(C, width) -> (C, 1)"""
    layers: list[nn.Module] = []
    for hidden in config.hidden:
        layers += [Linear(width, hidden), GELU(), nn.Dropout(config.dropout)]
        width = hidden
    return nn.Sequential(*layers, Linear(width, 1))
