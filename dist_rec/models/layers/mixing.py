"""Token mixing and the two blocks built on it: HyFormer's query boosting and RankMixer's.

Legend: C candidates, T tokens, D width, k expansion; D is a multiple of T.
"""

from collections.abc import Sequence

from torch import Tensor, nn

from dist_rec.models.layers.norm import LayerNorm
from dist_rec.models.layers.per_token import PerTokenFfn


def mix_tokens(x: Tensor) -> Tensor:
    """(C, T, D) -> (C, T, D): token h of the result holds slice h of every token, T slices of D / T each.

    Without parameters, and its own inverse (RankMixer, arXiv 2507.15551; HyFormer, arXiv 2601.12681, section 3.6).
    """
    tokens = x.shape[1]
    return x.unflatten(2, (tokens, -1)).transpose(1, 2).flatten(2)


class Boost(nn.Module):
    """`X + FFN(mix(LN(X)))`: one residual around mixing and the per-token layer (HyFormer, section 3.6), pre-norm."""

    def __init__(self, tokens: int, width: int, expansion: int, dropout: float, shared: bool) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.ffn = PerTokenFfn(tokens, (width, expansion * width, width), dropout, shared)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.dropout(self.ffn(mix_tokens(self.norm(x))))


class RankMixerBlock(nn.Module):
    """`S = LN(mix(X) + X)`, `LN(FFN(S) + S)`: two residuals, post-norm (RankMixer, arXiv 2507.15551)."""

    def __init__(self, tokens: int, width: int, expansion: int, dropout: float, shared: bool) -> None:
        super().__init__()
        self.norm_mix, self.norm_ffn = LayerNorm(width), LayerNorm(width)
        self.ffn = PerTokenFfn(tokens, (width, expansion * width, width), dropout, shared)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm_mix(mix_tokens(x) + x)
        return self.norm_ffn(self.dropout(self.ffn(mixed)) + mixed)


def mixed_outputs(mixed: Tensor, inputs: Sequence[str], num_queries: int) -> list[Tensor]:
    """What the head sees of mixed tokens (C, T, D), queries first: parts (C, width)."""
    views = {"mixed": mixed.flatten(1), "mixed_queries": mixed[:, :num_queries].flatten(1), "mixed_mean": mixed.mean(1)}
    return [views[name] for name in inputs if name in views]


def mixed_width(tokens: int, width: int, inputs: Sequence[str], num_queries: int) -> int:
    """Width of what `mixed_outputs` gives, side by side."""
    widths = {"mixed": tokens * width, "mixed_queries": num_queries * width, "mixed_mean": width}
    return sum(widths.get(name, 0) for name in inputs)
