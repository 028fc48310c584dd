"""What becomes of an event's row and the rows of its n-grams (arXiv 2601.21204, equation 3).

Legend: N events, D width of a row, M sub-tables of n-grams.
"""

import torch
from torch import Tensor, nn

from dist_rec.common.ngram import NgramSpec


class NgramFusion(nn.Module):
    """`amplify((e + W n) / (M + 1))` with rows of ids e (N, D) and the M rows of their n-grams side by side, n (N, D).

    The paper has a matrix for each sub-table and adds M products. W (D, D) is those matrices side by side: one product
    of the same cost whatever M is. It has no bias. The average makes rows sqrt(M + 1) times smaller, and `amplify` of
    the spec undoes it: LayerNorm, a factor of sqrt(D), or nothing.

    W starts with the variance M / D of its own inputs, which are D / M, so that each n-gram's part begins as large as
    its row."""

    def __init__(self, spec: NgramSpec, dim: int) -> None:
        super().__init__()
        spec.width(dim)
        self.average = 1.0 / (spec.tables + 1)
        self.scale = self.average * (dim**0.5 if spec.amplify == "sqrt" else 1.0)
        self.project = nn.Linear(dim, dim, bias=False)
        nn.init.normal_(self.project.weight, std=(spec.tables / dim) ** 0.5)
        self.norm = nn.LayerNorm(dim) if spec.amplify == "layer_norm" else None

    def forward(self, rows: Tensor, ngrams: Tensor) -> Tensor:
        """(N, D) and (N, D) -> (N, D), in fp32 under autocast."""
        added = (rows + self.project(ngrams).to(torch.promote_types(rows.dtype, torch.float32))) * self.scale
        return added if self.norm is None else self.norm(added)
