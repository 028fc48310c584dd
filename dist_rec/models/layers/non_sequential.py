"""Non-sequential tokens: the features of a request and of a candidate, grouped into M tokens of width D.

HyFormer (arXiv 2601.12681, section 3.3) and RankMixer (arXiv 2507.15551) group them by meaning; cutting their
concatenation into equal slices is the alternative.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from dist_rec.models.config import ModelConfig
from dist_rec.models.features import FeatureColumns
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.per_token import PerTokenLinear


class GroupedTokens(nn.Module):
    """One token per group of columns, each with its own projection.

    `groups`: name -> columns of `[context ; candidate]` features. Forward: a view of C candidates -> (C, M, D).
    """

    def __init__(self, groups: dict[str, list[slice]], width: int) -> None:
        super().__init__()
        self.groups = list(groups.values())
        self.project = nn.ModuleList(Linear(sum(c.stop - c.start for c in columns), width) for columns in self.groups)
        self.count, self.width = len(self.groups), width

    def forward(self, view: CandidateView) -> Tensor:
        features = side_by_side(view)
        tokens = [
            project(torch.cat([features[:, columns] for columns in group], dim=1))
            for project, group in zip(self.project, self.groups, strict=True)
        ]
        return torch.stack(tokens, dim=1)


class SlicedTokens(nn.Module):
    """`count` equal slices of the `total` columns of `[context ; candidate]` features, each with its own projection;
    the last slice is filled up with zeros. Forward: a view of C candidates -> (C, M, D)."""

    def __init__(self, total: int, count: int, width: int) -> None:
        super().__init__()
        self.count, self.width = count, width
        self.total, self.slice = total, -(-total // count)
        self.project = PerTokenLinear(count, self.slice, width)

    def forward(self, view: CandidateView) -> Tensor:
        features = pad(side_by_side(view), (0, self.count * self.slice - self.total))
        return self.project(features.unflatten(1, (self.count, self.slice)))


def side_by_side(view: CandidateView) -> Tensor:
    """(C, Du + Dc): the features of each candidate's request and its own."""
    if view.context is None:
        return view.features
    return torch.cat([view.of_request(view.context), view.features], dim=1)


def make_non_sequential(config: ModelConfig, columns: FeatureColumns, width: int) -> GroupedTokens | SlicedTokens:
    """The tokens of the recipe: one per group of the schema, or equal slices."""
    split = config.non_sequential.split
    return GroupedTokens(columns.groups, width) if split is None else SlicedTokens(columns.total, split, width)
