"""FLOPs and parameters by formula. Multiply-adds count as two FLOPs; everything is one forward pass of one request.

Training costs about three times the forward. Units are in the names. Formulas are those of LONGER (arXiv 2505.04421,
section 3.4) and HyFormer (arXiv 2601.12681) where they give them; L events, K merge factor, d token width, D width of the
layers (LONGER's is K * d), q query rows, n key rows, c candidates; of LONGER M = ceil(L / K) merged tokens; of HyFormer M
non-sequential tokens, N queries, T = N + M. Products of matrices count; norms, activations and gathers do not.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal


def layer_params(width: int, expansion: int = 4) -> int:
    """`12 D^2 + 13 D` with expansion 4: four projections, a feed-forward layer, all with bias, two LayerNorms."""
    return (4 + 2 * expansion) * width**2 + (9 + expansion) * width


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
    """What LONGER's cost depends on. `row_dim`: width of a token's concatenated embedding rows. `learnable`: the k query rows
    are learned, and there are k of them however few merged tokens a request has."""

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
    learnable: bool = False


def longer_flops(shape: LongerShape) -> dict[str, int]:
    """Forward FLOPs of one request by part; the tokens' first layer is counted per event, dedup makes it cheaper."""
    s, width = shape, shape.merge * shape.token_width
    merged = -(-s.length // s.merge)
    groups = s.candidates * s.group_size
    recent = min(s.k, merged) if s.k else merged
    queries = (s.k if s.learnable else recent) + groups
    return {
        "tokens": 2 * s.length * (s.row_dim * s.token_hidden + s.token_hidden * s.token_width),
        "inner": merged * layer_flops(s.merge, s.token_width) if s.inner_trans else 0,
        "cross": cross_layer_flops(queries, merged + groups, width, s.expansion),
        "self": s.self_layers * cross_layer_flops(queries, queries, width, s.expansion),
    }


def longer_params(shape: LongerShape) -> dict[str, int]:
    """Parameters by part, the tokens and the projections of the global tokens aside."""
    s, width = shape, shape.merge * shape.token_width
    return {
        "queries": s.k * width if s.learnable else 0,
        "inner": layer_params(s.token_width, s.expansion) if s.inner_trans else 0,
        "cross": layer_params(width, s.expansion),
        "self": s.self_layers * layer_params(width, s.expansion) + 2 * width,
    }


@dataclass(frozen=True)
class SequenceShape:
    """One sequence of HyFormer: L events, its encoder, L_H newest events of encoder longer, queries."""

    length: int
    encoder: Literal["full", "longer", "swiglu"]
    recent: int
    queries: int


@dataclass(frozen=True)
class HyformerShape:
    """What HyFormer's cost depends on, its event and non-sequential tokens aside. `known`: tokens of width D that a query is
    made from. `from_input`: every layer encodes the events anew. `per_token` and `rankmixer_block` change parameters only."""

    sequences: tuple[SequenceShape, ...]
    candidates: int
    width: int
    features: int
    known: int
    layers: int
    ffn_expansion: int = 4
    mixer_expansion: int = 4
    query_expansion: int = 4
    from_input: bool = False
    per_token: bool = True
    rankmixer_block: bool = False

    @property
    def tokens(self) -> int:
        return self.features + sum(sequence.queries for sequence in self.sequences)


def hyformer_flops(shape: HyformerShape) -> dict[str, int]:
    """Forward FLOPs of one request by part. Encoders and the decoders' keys are computed once for all candidates."""
    s, c, D = shape, shape.candidates, shape.width
    total = {"queries": 0, "encoders": 0, "decoders": 0, "mixer": s.layers * mixer_flops(c, s.tokens, D, s.mixer_expansion)}
    for sequence in s.sequences:
        asking = c * sequence.queries
        total["queries"] += asking * mlp_flops([s.known * D, s.query_expansion * D, D])
        rows = sequence.length
        for layer in range(s.layers):
            keys = sequence.length if layer == 0 or s.from_input else rows
            rows = min(sequence.recent, keys) if sequence.encoder == "longer" else keys
            if sequence.encoder == "swiglu":
                total["encoders"] += 6 * s.ffn_expansion * rows * D**2
            else:
                total["encoders"] += cross_layer_flops(rows, keys, D, s.ffn_expansion)
            total["decoders"] += 4 * rows * D**2 + 4 * asking * D**2 + 4 * asking * rows * D
    return total


def hyformer_params(shape: HyformerShape) -> dict[str, int]:
    """Parameters by part, with biases and norms."""
    s, D, e = shape, shape.width, shape.ffn_expansion
    transformer, swiglu = layer_params(D, e), 3 * e * D**2 + (2 * e + 3) * D
    hidden, queries = s.query_expansion * D, s.tokens - s.features
    return {
        "queries": queries * mlp_params([s.known * D, hidden, D]),
        "encoders": s.layers * sum(swiglu if q.encoder == "swiglu" else transformer for q in s.sequences),
        "decoders": s.layers * len(s.sequences) * (4 * D**2 + 7 * D),
        "mixer": s.layers * mixer_params(s.tokens if s.per_token else 1, D, s.mixer_expansion, s.rankmixer_block) + 2 * D,
    }


def mixer_flops(candidates: int, tokens: int, width: int, expansion: int) -> int:
    """`4 k T D^2` per candidate: a per-token feed-forward layer; the mixing itself only moves numbers."""
    return 4 * expansion * candidates * tokens * width**2


def mixer_params(tokens: int, width: int, expansion: int, rankmixer_block: bool) -> int:
    """A mixing block with feed-forward weights for so many tokens, and its LayerNorms: two in RankMixer's, else one."""
    return per_token_params(tokens, width, expansion) + (4 if rankmixer_block else 2) * width


def per_token_params(tokens: int, width: int, expansion: int) -> int:
    """`2 k T D^2` and biases: the feed-forward layer of a mixing block with own weights for every position."""
    return tokens * (2 * expansion * width**2 + (expansion + 1) * width)


def mlp_flops(widths: list[int]) -> int:
    """A chain of linear layers."""
    return sum(2 * before * after for before, after in pairwise(widths))


def mlp_params(widths: list[int]) -> int:
    """The same with a bias in every layer."""
    return sum((before + 1) * after for before, after in pairwise(widths))


def table_bytes(rows: int, dim: int, *, optimizer: str) -> int:
    """Float32 weights of a table and its optimizer's state."""
    state = {"rowwise_adagrad": rows, "adam": 2 * rows * dim, "sgd": 0}[optimizer]
    return 4 * (rows * dim + state)
