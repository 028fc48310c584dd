"""FLOPs of the layers that models share, by formula.

A multiply-add counts as two FLOPs; everything is one forward pass of one request, and training costs about three times
that. Products of matrices count; norms, activations and gathers do not. Formulas are those of LONGER (arXiv 2505.04421,
section 3.4) and HyFormer (arXiv 2601.12681) where the papers give them. Legend: L events, D width of a layer, q query
rows, n key rows, T tokens, k expansion."""

from itertools import pairwise

from torch import nn

from dist_rec.models.layers.non_sequential import GroupedTokens, SlicedTokens


def layer_flops(rows: int, width: int) -> int:
    """`24 L d^2 + 4 L^2 d`: a transformer layer over `rows` rows that all see each other."""
    return 24 * rows * width**2 + 4 * rows**2 * width


def cross_layer_flops(queries: int, keys: int, width: int, expansion: int = 4) -> int:
    """A layer in which q rows look at n rows: K and V projections of n rows; Q, output and feed-forward of q rows."""
    return 4 * keys * width**2 + (4 + 4 * expansion) * queries * width**2 + 4 * queries * keys * width


def mixer_flops(candidates: int, tokens: int, width: int, expansion: int) -> int:
    """`4 k T D^2` per candidate: a per-token feed-forward layer; the mixing itself only moves numbers."""
    return 4 * expansion * candidates * tokens * width**2


def mlp_flops(widths: list[int]) -> int:
    """A chain of linear layers."""
    return sum(2 * before * after for before, after in pairwise(widths))


def linear_flops(module: nn.Module) -> int:
    """Of one row through every linear layer inside."""
    return sum(2 * layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def non_sequential_flops(tokens: GroupedTokens | SlicedTokens) -> int:
    """Of the non-sequential tokens of one candidate."""
    return linear_flops(tokens) if isinstance(tokens, GroupedTokens) else 2 * tokens.project.weight.numel()
