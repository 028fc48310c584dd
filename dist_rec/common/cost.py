"""FLOPs and parameters by formula. Multiply-adds count as two FLOPs; everything is one forward pass of one request.

Training costs about three times the forward. Units are in the names. Formulas are those of LONGER (arXiv 2505.04421,
section 3.4) where it gives them; L events, K merge factor, d token width, D = K * d merged width, M = ceil(L / K) merged
tokens, q query rows, n key rows.
"""

from dataclasses import dataclass
from itertools import pairwise


def layer_params(width: int) -> int:
    """`12 D^2 + 13 D`: four projections, feed-forward of expansion 4, all with bias, two LayerNorms."""
    return 12 * width**2 + 13 * width


def layer_flops(rows: int, width: int) -> int:
    """`24 L d^2 + 4 L^2 d`: a transformer layer over `rows` rows that all see each other."""
    return 24 * rows * width**2 + 4 * rows**2 * width


def merged_layer_params(width: int, merge: int) -> int:
    """`12 K^2 d^2 + 13 K d`."""
    return layer_params(merge * width)


def merged_layer_flops(length: int, width: int, merge: int) -> float:
    """`24 L d^2 K + 4 L^2 d / K`: the same layer over L / K merged tokens of width K d."""
    return 24 * length * width**2 * merge + 4 * length**2 * width / merge


def merge_ratio(length: int, width: int, merge: int) -> float:
    """`(6 d K + L / K) / (6 d + L)`: FLOPs with merging over FLOPs without."""
    return (6 * width * merge + length / merge) / (6 * width + length)


def cross_layer_flops(queries: int, keys: int, width: int, expansion: int = 4) -> int:
    """A layer in which q rows look at n rows: K and V projections of n rows; Q, output and feed-forward of q rows."""
    return 4 * keys * width**2 + (4 + 4 * expansion) * queries * width**2 + 4 * queries * keys * width


@dataclass(frozen=True)
class LongerShape:
    """What LONGER's cost depends on. `row_dim`: width of a token's concatenated embedding rows."""

    length: int
    candidates: int
    token_width: int
    token_hidden: int
    row_dim: int
    merge: int
    inner_trans: bool
    k: int
    group_size: int
    self_layers: int
    expansion: int = 4


def longer_flops(shape: LongerShape) -> dict[str, int]:
    """Forward FLOPs of one request by part; the tokens' first layer is counted per event, dedup makes it cheaper."""
    s, width = shape, shape.merge * shape.token_width
    merged = -(-s.length // s.merge)
    groups = s.candidates * s.group_size
    queries = (min(s.k, merged) if s.k else merged) + groups
    return {
        "tokens": 2 * s.length * (s.row_dim * s.token_hidden + s.token_hidden * s.token_width),
        "inner": merged * layer_flops(s.merge, s.token_width) if s.inner_trans else 0,
        "cross": cross_layer_flops(queries, merged + groups, width, s.expansion),
        "self": s.self_layers * cross_layer_flops(queries, queries, width, s.expansion),
    }


def mlp_flops(widths: list[int]) -> int:
    """A chain of linear layers."""
    return sum(2 * before * after for before, after in pairwise(widths))


def table_bytes(rows: int, dim: int, *, optimizer: str) -> int:
    """Float32 weights of a table and its optimizer's state."""
    state = {"rowwise_adagrad": rows, "adam": 2 * rows * dim, "sgd": 0}[optimizer]
    return 4 * (rows * dim + state)
