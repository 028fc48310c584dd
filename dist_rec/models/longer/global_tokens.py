"""LONGER's global tokens (arXiv 2505.04421, section 3.3): rows of a candidate that see its whole history.

Legend: C candidates, m global tokens of a candidate, D merged width.
"""

import torch
from torch import Tensor, nn

from dist_rec.models.layers.activation import GELU
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.linear import Linear
from dist_rec.models.longer.config import Global


class GlobalTokens(nn.Module):
    """One row per global token of every candidate, each with its own projection: (C * m, D).

    `candidate` comes from the candidate's features, `user` from the request's context, `cls` is learned. Fig. 1 of the
    paper has the first two.
    """

    def __init__(self, kinds: list[Global], candidate_dim: int, context_dim: int, width: int) -> None:
        super().__init__()
        self.kinds = list(kinds)
        sources = {"candidate": candidate_dim, "user": context_dim}
        self.project = nn.ModuleList(
            nn.Sequential(Linear(sources[kind], width), GELU(), Linear(width, width))
            if kind != "cls"
            else nn.Identity()
            for kind in kinds
        )
        # None rather than empty: a parameter outside the graph makes DDP wait for its gradient.
        self.learned = nn.Parameter(0.02 * torch.randn(kinds.count("cls"), width)) if "cls" in kinds else None

    def forward(self, view: CandidateView) -> Tensor:
        learned = iter(() if self.learned is None else self.learned)
        rows = []
        for kind, project in zip(self.kinds, self.project, strict=True):
            if kind == "candidate":
                rows.append(project(view.features))
            elif kind == "user":
                assert view.context is not None
                rows.append(view.of_request(project(view.context)))
            else:
                rows.append(next(learned).expand(view.counts.total, -1))
        dtype = rows[0].dtype
        return torch.stack([row.to(dtype) for row in rows], dim=1).flatten(0, 1)
