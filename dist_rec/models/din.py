"""Target attention in the style of DIN (arXiv 1706.06978): an activation unit weighs every event against the candidate."""

import torch
from torch import Tensor, nn

from dist_rec.models.jagged import CandidateView, owner, position_in_request


class Din(nn.Module):
    """Packed event tokens (N, d) and candidates -> (C, d): `sum_i a(x_i, v) x_i`, weights not normalised (section 4.3).

    Works on P pairs (candidate, event it sees): O(C * L) memory, no padding.
    """

    def __init__(self, token_width: int, candidate_dim: int, hidden: int) -> None:
        super().__init__()
        self.candidate = nn.Linear(candidate_dim, token_width)
        # The unit's first layer over [x ; v ; x * v]: the parts of x and v alone are applied before pairs are formed.
        self.event_part = nn.Linear(token_width, hidden, bias=False)
        self.candidate_part = nn.Linear(token_width, hidden)
        self.product_part = nn.Linear(token_width, hidden, bias=False)
        self.weigh = nn.Sequential(nn.GELU(), nn.Linear(hidden, 1))
        self.width = token_width

    def forward(self, tokens: Tensor, lengths: Tensor, view: CandidateView) -> Tensor:
        candidate = self.candidate(view.features)
        seen = lengths[view.request] if view.seen is None else view.seen
        num_pairs = int(seen.sum())
        pair_candidate = owner(seen, num_pairs)
        starts = (lengths.cumsum(0) - lengths).long()[view.request]
        pair_event = starts[pair_candidate] + position_in_request(seen, num_pairs)
        x = tokens[pair_event]
        hidden = self.event_part(tokens)[pair_event] + self.candidate_part(candidate)[pair_candidate]
        weight = self.weigh(hidden + self.product_part(x * candidate[pair_candidate]))
        weighted = weight * x
        weighted = weighted.to(torch.promote_types(weighted.dtype, torch.float32))  # thousands of terms: never in bf16
        return weighted.new_zeros(candidate.shape).index_add(0, pair_candidate, weighted)
