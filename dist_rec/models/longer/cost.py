"""FLOPs of LONGER by formula (arXiv 2505.04421, section 3.4); conventions: layers/cost.py."""

from dataclasses import dataclass

from dist_rec.models.layers.cost import cross_layer_flops, layer_flops


@dataclass(frozen=True)
class LongerShape:
    """What the cost of LONGER depends on. With `learnable` there are k query rows however few merged tokens a request
    has."""

    length: int
    candidates: int
    token_width: int
    merge: int
    inner_trans: bool
    k: int
    group_size: int
    self_layers: int
    expansion: int = 4
    learnable: bool = False


def longer_flops(shape: LongerShape) -> dict[str, int]:
    """Forward FLOPs of one request by part, those of its event tokens aside."""
    s, width = shape, shape.merge * shape.token_width
    merged = -(-s.length // s.merge)
    groups = s.candidates * s.group_size
    recent = min(s.k, merged) if s.k else merged
    queries = (s.k if s.learnable else recent) + groups
    return {
        "inner": merged * layer_flops(s.merge, s.token_width) if s.inner_trans else 0,
        "cross": cross_layer_flops(queries, merged + groups, width, s.expansion),
        "self": s.self_layers * cross_layer_flops(queries, queries, width, s.expansion),
    }
