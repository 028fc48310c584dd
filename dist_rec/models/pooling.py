"""Pooling, the baseline without attention: event tokens are averaged over what each candidate sees.

Order plays a part only as far as positions and times are in the tokens.
"""

from torch import Tensor, nn

from dist_rec.models.jagged import CandidateView, visible_mean


class SumPooling(nn.Module):
    """Packed event tokens (N, d) -> (C, d)."""

    def __init__(self, token_width: int) -> None:
        super().__init__()
        self.width = token_width

    def forward(self, tokens: Tensor, lengths: Tensor, view: CandidateView) -> Tensor:
        return visible_mean(tokens, lengths, view)
