"""FLOPs of HyFormer by formula (arXiv 2601.12681); conventions: layers/cost.py."""

from dataclasses import dataclass
from typing import Literal

from dist_rec.models.layers.cost import cross_layer_flops, mixer_flops, mlp_flops


@dataclass(frozen=True)
class SequenceShape:
    """One sequence of HyFormer: L events, its encoder, L_H newest events of encoder longer, queries."""

    length: int
    encoder: Literal["full", "longer", "swiglu"]
    recent: int
    queries: int


@dataclass(frozen=True)
class HyformerShape:
    """What HyFormer's cost depends on, its event and non-sequential tokens aside. `known`: tokens of width D that a
    query is made from. `from_input`: every layer encodes the events anew."""

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

    @property
    def tokens(self) -> int:
        return self.features + sum(sequence.queries for sequence in self.sequences)


def hyformer_flops(shape: HyformerShape) -> dict[str, int]:
    """Forward FLOPs of one request by part. Encoders and the decoders' keys are computed once for all candidates."""
    s, c, D = shape, shape.candidates, shape.width
    total = {
        "queries": 0,
        "encoders": 0,
        "decoders": 0,
        "mixer": s.layers * mixer_flops(c, s.tokens, D, s.mixer_expansion),
    }
    for sequence in s.sequences:
        queries = c * sequence.queries
        total["queries"] += queries * mlp_flops([s.known * D, s.query_expansion * D, D])
        rows = sequence.length
        for layer in range(s.layers):
            keys = sequence.length if layer == 0 or s.from_input else rows
            rows = min(sequence.recent, keys) if sequence.encoder == "longer" else keys
            if sequence.encoder == "swiglu":
                total["encoders"] += 6 * s.ffn_expansion * rows * D**2
            else:
                total["encoders"] += cross_layer_flops(rows, keys, D, s.ffn_expansion)
            total["decoders"] += 4 * rows * D**2 + 4 * queries * D**2 + 4 * queries * rows * D
    return total
