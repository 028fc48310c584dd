"""The keys of LONGER's cross-causal layer: merged events, then the group of every candidate, with feedback for twins.

Legend: C candidates, F twins, m global rows of a candidate, n feedback tokens of a twin, D merged width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import CandidateView, GroupLayout, Twins
from dist_rec.models.layers.placed_rows import placed_rows


@dataclass(frozen=True)
class KeyRows:
    """Groups of a view with twins are all `group_size` = m + n rows long. A twin's are its feedback tokens, then its
    globals, which see them. Another candidate's are its globals, then rows of zeros that nobody sees.

    - `group_index` (C * m,) int64: the place of every global row among the keys
    - `feedback_index` (F * n,) int64 that of feedback tokens, None without twins
    """

    layout: GroupLayout
    group_size: int
    group_index: Tensor
    feedback_index: Tensor | None
    request: Tensor  # (C * m,) of the global rows

    @classmethod
    def of(cls, events: Lengths, view: CandidateView, m: int) -> "KeyRows":
        twins, request = view.twins, view.counts.times(m).request
        if twins is None:
            layout = GroupLayout.of(events, view.counts, m)
            return cls(layout, m, layout.group_index, None, request)
        n = twins.per_twin
        layout = GroupLayout.of(events, view.counts, m + n)
        first = (m + n) * torch.arange(view.counts.total, device=twins.place.device)
        globals_first = first.index_copy(0, twins.place, first[twins.place] + n)
        steps = torch.arange(m + n, device=first.device)
        group = (globals_first[:, None] + steps[:m]).flatten()
        feedback = (first[twins.place][:, None] + steps[:n]).flatten()
        return cls(layout, m + n, layout.group_index[group], layout.group_index[feedback], request)

    @property
    def group_position(self) -> Tensor:
        """(C * m,) int64: the place of every global row among the keys of its request."""
        return self.group_index - self.layout.lengths.starts[self.request]

    def join(self, events: Tensor, groups: Tensor, twins: Twins | None) -> Tensor:
        """(sum M, D) and (C * m, D) -> the keys."""
        if twins is None or self.feedback_index is None:
            return self.layout.join(events, groups)
        parts = [(events, self.layout.event_index), (groups, self.group_index), (twins.rows, self.feedback_index)]
        return placed_rows(parts, self.layout.lengths.total, padded=True)
