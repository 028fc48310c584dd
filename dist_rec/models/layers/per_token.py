"""Layers in which every token position has weights of its own, as one batched matrix product.

Legend: C candidates, T tokens, D width, k expansion.
"""

import torch
from torch import Tensor, nn

from dist_rec.models.layers.activation import GELU
from dist_rec.models.layers.linear import Linear


class PerTokenLinear(nn.Module):
    """(C, T, in) -> (C, T, out): position t is multiplied by its own (in, out) matrix. Parameters
    `T in out + T out`."""

    def __init__(self, tokens: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5  # as nn.Linear starts
        self.weight = nn.Parameter(torch.empty(tokens, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(tokens, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


class PerTokenFfn(nn.Sequential):
    """(C, T, in) -> (C, T, out) through a hidden layer with GELU, own weights per position, or `shared` ones to
    compare.

    RankMixer's per-token feed-forward layer has in = out = D and hidden k D: `2 k T D^2` weights (arXiv 2507.15551).
    """

    def __init__(self, tokens: int, widths: tuple[int, int, int], dropout: float, shared: bool = False) -> None:
        inputs, hidden, outputs = widths
        first, second = (
            Linear(before, after) if shared else PerTokenLinear(tokens, before, after)
            for before, after in ((inputs, hidden), (hidden, outputs))
        )
        super().__init__(first, GELU(), nn.Dropout(dropout), second)
