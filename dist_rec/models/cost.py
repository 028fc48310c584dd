"""What a built model costs: FLOPs by formula, parameters counted."""

from dist_rec.models.layers.cost import linear_flops, mlp_flops
from dist_rec.models.layers.tokens import EventTokens
from dist_rec.models.ranker import Ranker

PARTS = {"candidate_dynamic": "candidate", "candidate_numbers": "candidate"}


def request_flops(ranker: Ranker, lengths: dict[str, int], candidates: int = 1) -> dict[str, int]:
    """Forward FLOPs by part of one request with so many events in each sequence, after the lookup of its rows.

    The tokens' first layer and attributes are counted per event, dedup makes them cheaper. Learned positions and times
    are not counted.
    """
    total = {"tokens": 0}
    for name, tokens in ranker.tokens.items():
        assert isinstance(tokens, EventTokens)
        hidden = tokens.static
        total["tokens"] += lengths[name] * mlp_flops([hidden.in_features, hidden.out_features, tokens.out.out_features])
        if tokens.beside is not None:
            total["tokens"] += lengths[name] * linear_flops(tokens.beside)
        if tokens.ngrams is not None:
            total["tokens"] += lengths[name] * linear_flops(tokens.ngrams)
    features = candidates * linear_flops(ranker.candidate_numbers)
    if features := features + (0 if ranker.request is None else linear_flops(ranker.request)):
        total["features"] = features
    if attributes := _attribute_flops(ranker, {**lengths, "candidate": candidates, "context": 1}):
        total["attributes"] = attributes
    if pools := sum(linear_flops(pool) for pool in ranker.pools.values()):
        total["pools"] = pools * (candidates if ranker.schema.candidate.visible_events else 1)
    return total | ranker.body.flops(lengths, candidates) | {"head": candidates * linear_flops(ranker.head)}


def _attribute_flops(ranker: Ranker, elements: dict[str, int]) -> int:
    if ranker.attributes is None:
        return 0
    of_table = {table: linear_flops(encode) for table, encode in ranker.attributes.encode.items()}
    owners, tables = ranker.schema.layout.owners, ranker.attributes.tables
    return sum(
        count * of_table[tables[key]]
        for owner, count in elements.items()
        if owner in owners
        for key in owners[owner].keys
        if key in tables
    )


def dense_params(ranker: Ranker) -> dict[str, int]:
    """Dense parameters by part; embedding tables are not among them."""
    total: dict[str, int] = {}
    for name, parameter in ranker.named_parameters():
        first, _, rest = name.partition(".")
        part = ranker.body.part_of(rest) if first == "body" else PARTS.get(first, first)
        total[part] = total.get(part, 0) + parameter.numel()
    return total
