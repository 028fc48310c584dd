"""Sum pooling: the baseline that ignores order. Event tokens are averaged over what each candidate sees."""

from torch import Tensor, nn

from dist_rec.models.jagged import CandidateView, visible_mean


class SumPooling(nn.Module):
    """Packed event tokens (N, d) -> (C, d)."""

    def __init__(self, token_width: int) -> None:
        super().__init__()
        self.width = token_width

    def forward(self, tokens: Tensor, lengths: Tensor, view: CandidateView) -> Tensor:
        return visible_mean(tokens, lengths, view)
