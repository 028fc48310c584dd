"""What a built model costs on its schema, by the formulas of `common.cost`."""

from torch import nn

from dist_rec.common.cost import (
    HyformerShape,
    LongerShape,
    SequenceShape,
    hyformer_flops,
    hyformer_params,
    longer_flops,
    longer_params,
    mixer_flops,
    mixer_params,
    mlp_flops,
    mlp_params,
)
from dist_rec.models.din import Din
from dist_rec.models.hyformer import MERGED, HyFormer
from dist_rec.models.late_fusion import LateFusion
from dist_rec.models.longer import Longer
from dist_rec.models.non_sequential import GroupedTokens, SlicedTokens
from dist_rec.models.rank_mixer import RankMixer
from dist_rec.models.ranker import Ranker
from dist_rec.models.tokens import EventTokens

Flops = dict[str, int]
Params = dict[str, int]


def request_flops(ranker: Ranker, lengths: dict[str, int], candidates: int = 1) -> Flops:
    """Forward FLOPs by part of one request with so many events in each sequence, after the lookup of its rows.

    The tokens' first layer is counted per event, dedup makes it cheaper. Learned positions and times are not counted.
    """
    total: Flops = {"tokens": 0}
    for name, tokens in ranker.tokens.items():
        assert isinstance(tokens, EventTokens)
        hidden = tokens.static
        total["tokens"] += lengths[name] * mlp_flops([hidden.in_features, hidden.out_features, tokens.out.out_features])
    pools = sum(linear_flops(pool) for pool in ranker.pools.values())
    if pools:
        total["pools"] = pools * (candidates if ranker.schema.candidate.seen else 1)
    body = ranker.body
    total |= _hyformer(body, lengths, candidates) if isinstance(body, HyFormer) else _late(ranker, body, lengths, candidates)
    total["head"] = candidates * linear_flops(ranker.head)
    return total


def model_params(ranker: Ranker) -> Params:
    """Dense parameters by part; embedding tables are not among them."""
    config, body = ranker.config, ranker.body
    total: Params = {"tokens": 0}
    for sequence in ranker.schema.sequences:
        tokens = ranker.tokens[sequence.name]
        assert isinstance(tokens, EventTokens)
        total["tokens"] += _event_params(tokens, sequence.dynamic, sequence.time)
    total["candidate"] = config.tokens.dynamic_dim * sum(ranker.schema.candidate.dynamic.values())
    total["pools"] = linear_flops(ranker.pools) // 2
    if isinstance(body, HyFormer):
        mixed = hyformer_params(hyformer_shape(body, dict.fromkeys(ranker.tokens, 0)))
        total |= {"non-sequential": _token_params(body.non_sequential), **mixed}
    else:
        for encoder in body.encoders.values():
            for part, params in _encoder_params(ranker, encoder).items():
                total[part] = total.get(part, 0) + params
        total |= {} if body.mixer is None else _rank_mixer_params(ranker, body, body.mixer)
    widths = [ranker.head_width, *config.head.hidden, 1]
    return total | {"head": len(ranker.schema.candidate.labels) * mlp_params(widths)}


def linear_flops(module: nn.Module) -> int:
    """Of one row through every linear layer inside."""
    return sum(2 * layer.weight.numel() for layer in module.modules() if isinstance(layer, nn.Linear))


def hyformer_shape(body: HyFormer, lengths: dict[str, int], candidates: int = 1) -> HyformerShape:
    """Of a built HyFormer and one request with so many events in each sequence."""
    config = body.config
    lengths = {MERGED: sum(lengths.values())} if config.merge_sequences else lengths
    sequences = (SequenceShape(lengths[name], s.encoder, s.recent, s.queries) for name, s in body.sequences.items())
    return HyformerShape(
        sequences=tuple(sequences),
        candidates=candidates,
        width=body.non_sequential.width,
        features=body.non_sequential.count,
        known=body.queries.known,
        layers=config.layers,
        ffn_expansion=config.ffn_expansion,
        mixer_expansion=config.mixer_expansion,
        query_expansion=config.query_expansion,
        from_input=config.encode_from == "input",
        per_token=config.per_token,
        rankmixer_block=config.rankmixer_block,
    )


def _hyformer(body: HyFormer, lengths: dict[str, int], candidates: int) -> Flops:
    shape = hyformer_shape(body, lengths, candidates)
    return {"non-sequential": candidates * _token_flops(body.non_sequential), **hyformer_flops(shape)}


def _late(ranker: Ranker, body: LateFusion, lengths: dict[str, int], candidates: int) -> Flops:
    total: Flops = {}
    for name, encoder in body.encoders.items():
        for part, flops in _encoder(ranker, encoder, lengths[name], candidates).items():
            total[part] = total.get(part, 0) + flops
    return total if body.mixer is None else total | _rank_mixer(ranker, body.mixer, candidates)


def _encoder(ranker: Ranker, encoder: nn.Module, length: int, candidates: int) -> Flops:
    """The events' tokens are counted with the ranker's."""
    model = ranker.config
    if isinstance(encoder, Longer):
        parts = longer_flops(_longer_shape(ranker, length, candidates))
        del parts["tokens"]
        counts = {"candidate": candidates, "user": 1, "cls": 0}
        projections = zip(model.longer.globals, encoder.globals.project, strict=True)
        return {"globals": sum(counts[kind] * linear_flops(project) for kind, project in projections), **parts}
    if isinstance(encoder, Din):
        once = length * linear_flops(encoder.event_part)
        each = linear_flops(encoder.candidate) + linear_flops(encoder.candidate_part)
        pairs = linear_flops(encoder.product_part) + linear_flops(encoder.weigh) + 2 * model.tokens.width
        return {"attention": once + candidates * (each + length * pairs)}
    return {}


def _longer_shape(ranker: Ranker, length: int, candidates: int) -> LongerShape:
    longer = ranker.config.longer
    return LongerShape(
        length=length,
        candidates=candidates,
        token_width=ranker.config.tokens.width,
        token_hidden=0,
        row_dim=0,
        merge=longer.merge,
        inner_trans=longer.inner_trans,
        k=longer.k,
        group_size=len(longer.globals),
        self_layers=longer.self_layers,
        expansion=longer.ffn_expansion,
        learnable=longer.queries == "learnable",
    )


def _rank_mixer(ranker: Ranker, mixer: RankMixer, candidates: int) -> Flops:
    config = ranker.config.rankmixer
    tokens = _token_flops(mixer.non_sequential) + linear_flops(mixer.project)
    blocks = config.layers * mixer_flops(candidates, mixer.num_tokens, config.width, config.expansion)
    return {"non-sequential": candidates * tokens, "mixer": blocks}


def _token_flops(tokens: GroupedTokens | SlicedTokens) -> int:
    if isinstance(tokens, GroupedTokens):
        return linear_flops(tokens)
    return 2 * tokens.project.weight.numel()


def _event_params(tokens: EventTokens, dynamic: dict[str, int], has_time: bool) -> int:
    config, row_dim = tokens.config, tokens.static.in_features
    total = mlp_params([row_dim, config.hidden, config.width])
    total += config.max_positions * row_dim if config.position != "none" else 0
    total += config.time_dim * (config.time_buckets + config.hidden) if has_time else 0
    return total + sum(config.dynamic_dim * (size + config.hidden) for size in dynamic.values())


def _encoder_params(ranker: Ranker, encoder: nn.Module) -> Params:
    width = ranker.config.tokens.width
    if isinstance(encoder, Longer):
        kinds, merged = ranker.config.longer.globals, width * ranker.config.longer.merge
        sources = {"candidate": ranker.candidate_dim, "user": ranker.context_dim}
        projections = (merged if kind == "cls" else mlp_params([sources[kind], merged, merged]) for kind in kinds)
        return {"globals": sum(projections), **longer_params(_longer_shape(ranker, 0, 1))}
    if isinstance(encoder, Din):
        hidden = ranker.config.din.hidden
        pairs = (3 * width + 1) * hidden + hidden + 1
        return {"attention": mlp_params([ranker.candidate_dim, width]) + pairs}
    return {}


def _rank_mixer_params(ranker: Ranker, body: LateFusion, mixer: RankMixer) -> Params:
    config = ranker.config.rankmixer
    summaries = sum(mlp_params([width, config.width]) for width in body.widths)
    tokens = _token_params(mixer.non_sequential) + summaries
    per_block = mixer_params(mixer.num_tokens if config.per_token else 1, config.width, config.expansion, True)
    return {"non-sequential": tokens, "mixer": config.layers * per_block}


def _token_params(tokens: GroupedTokens | SlicedTokens) -> int:
    if isinstance(tokens, GroupedTokens):
        columns = (sum(c.stop - c.start for c in group) for group in tokens.groups)
        return sum(mlp_params([width, tokens.width]) for width in columns)
    return tokens.count * mlp_params([tokens.slice, tokens.width])
