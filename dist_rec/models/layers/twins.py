"""Twins: second candidates of a request that also see feedback. They share its history, and one pass serves both.

Legend: B requests, C candidates, F twins.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from dist_rec.data.batch import Feedback
from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import CandidateView, GroupLayout, Twins
from dist_rec.models.layers.placed_rows import picked_rows, placed_rows


@dataclass(frozen=True)
class TwinLayout:
    """Where candidates and twins stand in a view of both, the twins of a request after its candidates."""

    candidates: Tensor  # (C,) int64
    twins: Tensor  # (F,) int64

    def apart(self, rows: Tensor) -> Tensor:
        """(C + F, W) in the order of the view -> candidates, then twins."""
        return picked_rows(rows, torch.cat([self.candidates, self.twins]))


def with_twins(view: CandidateView, feedback: Feedback, tokens: Tensor) -> tuple[CandidateView, TwinLayout]:
    """A view of candidates and their twins; tokens (F, n, W)."""
    layout = GroupLayout.of(view.counts, feedback.twins, 1)
    features = placed_rows(
        [(view.features, layout.event_index), (picked_rows(view.features, feedback.twin), layout.group_index)],
        layout.lengths.total,
    )
    counts = view.counts.plus(feedback.twins)
    # Where both stand on the host: of one request candidates come first, and sorting keeps their order.
    request = np.concatenate([np.repeat(np.arange(len(of)), of.host) for of in (view.counts, feedback.twins)])
    order = np.argsort(request, kind="stable")

    def of_both(lengths: Lengths | None) -> Lengths | None:
        if lengths is None:
            return None
        there = torch.cat([lengths.tensor, lengths.tensor[feedback.twin]])
        joined = torch.empty_like(there).index_copy_(0, torch.cat([layout.event_index, layout.group_index]), there)
        return Lengths(joined, np.concatenate([lengths.host, lengths.host[feedback.twin_host]])[order])

    twins = Twins(layout.group_index, feedback.twins, tokens)
    both = replace(
        view,
        features=features,
        counts=counts,
        prefix_len=of_both(view.prefix_len),
        prefix_slots=of_both(view.prefix_slots),
        twins=twins,
    )
    return both, TwinLayout(layout.event_index, layout.group_index)


def twins_alone(view: CandidateView, feedback: Feedback, tokens: Tensor) -> CandidateView:
    """A view of the twins without their candidates; tokens (F, n, W)."""

    def of_twins(lengths: Lengths | None) -> Lengths | None:
        return None if lengths is None else Lengths(lengths.tensor[feedback.twin], lengths.host[feedback.twin_host])

    return replace(
        view,
        features=picked_rows(view.features, feedback.twin),
        counts=feedback.twins,
        prefix_len=of_twins(view.prefix_len),
        prefix_slots=of_twins(view.prefix_slots),
        twins=Twins(torch.arange(len(feedback.lengths), device=tokens.device), feedback.twins, tokens),
    )
