"""Rows of events that know the events before: of fields with n-grams, before the token is made of them.

Legend: N events of one sequence, U unique tokens, De width of a token's row, Df of the fields with n-grams.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_rec.common.ngram import NgramSpec
from dist_rec.data.batch import JaggedEvents
from dist_rec.embedding.ngram_fusion import NgramFusion
from dist_rec.kernels.gather_pool import expand


@dataclass(frozen=True)
class NgramField:
    """A field with n-grams: the feature set of their rows, and the columns of the field in a token's row."""

    name: str
    feature_set: str
    columns: slice
    spec: NgramSpec


class EventNgrams(nn.Module):
    """Unique rows (U, De), the events of one sequence, and rows of n-grams by feature set -> (N, Df): the columns of
    the fields with n-grams, one field after the other, each fused with its n-grams."""

    def __init__(self, fields: Sequence[NgramField]) -> None:
        super().__init__()
        self.fields = tuple(fields)
        self.fusions = nn.ModuleDict(
            {of.name: NgramFusion(of.spec, of.columns.stop - of.columns.start) for of in self.fields}
        )

    def forward(self, rows: Tensor, events: JaggedEvents, ngrams: dict[str, Tensor]) -> Tensor:
        fused = []
        for of in self.fields:
            own = expand(rows[:, of.columns].contiguous(), events.inverse)
            parts = expand(
                ngrams[of.feature_set], events.ngrams[of.feature_set]
            )  # (N M, De / M), those of an event adjacent
            fused.append(self.fusions[of.name](own, parts.view(own.shape)))
        return torch.cat(fused, dim=1)

    def split(self, columns: Tensor) -> tuple[Tensor, Tensor]:
        """(K, De) -> (K, De - Df) of the other fields, (K, Df) of those with n-grams in their order."""
        others, end = [], 0
        for of in sorted(self.fields, key=lambda of: of.columns.start):
            others.append(columns[:, end : of.columns.start])
            end = of.columns.stop
        return torch.cat([*others, columns[:, end:]], 1), torch.cat([columns[:, of.columns] for of in self.fields], 1)
