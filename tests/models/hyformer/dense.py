"""HyFormer as the paper writes it (arXiv 2601.12681): padded sequences (B, L, D) with a mask, one candidate per sample.

Uses the weights of a `HyFormer` and none of its code. Padding may hold anything.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dist_rec.models.hyformer.config import HyFormerSequence
from dist_rec.models.hyformer.model import HyFormer, HyFormerLayer
from dist_rec.models.hyformer.query_decoder import QueryDecoder
from dist_rec.models.hyformer.sequence_encoder import AttentionEncoder, SwigluEncoder
from dist_rec.models.layers.mixing import Boost, RankMixerBlock
from dist_rec.models.layers.per_token import PerTokenFfn, PerTokenLinear


@dataclass
class Padded:
    """x (B, L, D), real (B, L) bool: which slots hold an event. Events stand in the order of time, padding anywhere.

    place (B, L) numbers all events of a sequence from its oldest and end (B,) is how many there are, also after an
    encoder has dropped some."""

    x: Tensor
    real: Tensor
    place: Tensor
    end: Tensor

    @classmethod
    def of(cls, x: Tensor, real: Tensor) -> "Padded":
        return cls(x, real, real.cumsum(1) - 1, real.sum(1))


def dense_hyformer(model: HyFormer, features: Tensor, sequences: dict[str, Padded], pools: dict[str, Tensor]) -> Tensor:
    """features (B, M, D) non-sequential tokens, pools (B, D) by sequence -> (B, T, D)."""
    config = model.config
    x = torch.cat([_queries(model, features, pools), features], dim=1)
    state = sequences
    for number, layer in enumerate(model.layers):
        assert isinstance(layer, HyFormerLayer)
        if number and not config.evolve_non_sequential:
            x = torch.cat([x[:, : model.num_queries], features], dim=1)
        before = sequences if config.encode_from == "input" else state
        state = {name: _encode(layer.encoders[name], model.sequences[name], before[name]) for name in sequences}
        start, tokens = 0, []
        for name, count in model.counts.items():
            tokens.append(_decode(layer.decoders[name], x[:, start : start + count], state[name]))
            start += count
        x = _boost(layer.mixer, torch.cat([*tokens, x[:, start:]], dim=1))
    return _norm(model.norm, x)


def _queries(model: HyFormer, features: Tensor, pools: dict[str, Tensor]) -> Tensor:
    config, owners = model.config, [name for name, count in model.counts.items() for _ in range(count)]
    out = []
    for j, owner in enumerate(owners):
        known = [features[:, m] for m in model.queries.features]
        if "pools" in config.query_inputs:
            known += list(pools.values()) if config.pools == "all" else [pools[owner]]
        first, last = model.queries.ffn[0], model.queries.ffn[-1]
        assert isinstance(first, PerTokenLinear) and isinstance(last, PerTokenLinear)
        hidden = F.gelu(torch.cat(known, dim=1) @ first.weight[j] + first.bias[j])
        out.append(hidden @ last.weight[j] + last.bias[j])
    return torch.stack(out, dim=1)


def _encode(encoder: nn.Module, sequence: HyFormerSequence, s: Padded) -> Padded:
    if isinstance(encoder, SwigluEncoder):
        x = _norm(encoder.norm, s.x)
        return replace(s, x=s.x + encoder.down(F.silu(encoder.gate(x)) * encoder.up(x)))
    assert isinstance(encoder, AttentionEncoder)
    block, asks = encoder.block, s.real
    if sequence.encoder == "longer":  # the last `recent` real slots ask; the others become padding
        newer = s.real.flip(1).cumsum(1).flip(1) - s.real.long()
        asks = s.real & (newer < sequence.recent)
    normed = _norm(block.norm_attention, s.x)
    sees = s.real[:, None, :].expand(-1, s.x.shape[1], -1)
    if sequence.causal:
        sees = sees & torch.ones(s.x.shape[1], s.x.shape[1], dtype=torch.bool).tril()
    turns = (s.place, s.place) if encoder.rotary else None
    heads = _attention(block.query(normed), block.key(normed), block.value(normed), sees, block.heads, turns)
    x = s.x + block.project(heads)
    x = x + block.ffn[-1](F.gelu(block.ffn[0](_norm(block.norm_ffn, x))))
    return replace(s, x=x, real=asks)


def _decode(decoder: nn.Module, queries: Tensor, s: Padded) -> Tensor:
    assert isinstance(decoder, QueryDecoder)
    events = _norm(decoder.norm_events, s.x)
    q = decoder.query(_norm(decoder.norm_query, queries))
    sees = s.real[:, None, :].expand(-1, queries.shape[1], -1)
    turns = (s.end[:, None].expand(-1, q.shape[1]), s.place) if decoder.rotary else None
    heads = _attention(q, decoder.key(events), decoder.value(events), sees, decoder.heads, turns)
    return queries + decoder.project(heads)


def _boost(mixer: nn.Module, x: Tensor) -> Tensor:
    if isinstance(mixer, RankMixerBlock):
        s = _norm(mixer.norm_mix, _mix(x) + x)
        return _norm(mixer.norm_ffn, _per_token(mixer.ffn, s) + s)
    assert isinstance(mixer, Boost)
    return x + _per_token(mixer.ffn, _mix(_norm(mixer.norm, x)))


def _mix(x: Tensor) -> Tensor:
    """Token h: slice h of token 1, then of token 2, and so on."""
    tokens = x.unbind(1)
    slices = [token.chunk(len(tokens), dim=1) for token in tokens]
    return torch.stack([torch.cat([own[h] for own in slices], dim=1) for h in range(len(tokens))], dim=1)


def _per_token(ffn: PerTokenFfn, x: Tensor) -> Tensor:
    first, last, out = ffn[0], ffn[-1], []
    for t, token in enumerate(x.unbind(1)):
        if isinstance(first, PerTokenLinear) and isinstance(last, PerTokenLinear):
            hidden = F.gelu(token @ first.weight[t] + first.bias[t])
            out.append(hidden @ last.weight[t] + last.bias[t])
        else:
            out.append(last(F.gelu(first(token))))
    return torch.stack(out, dim=1)


def _attention(
    q: Tensor, k: Tensor, v: Tensor, sees: Tensor, heads: int, turns: tuple[Tensor, Tensor] | None = None
) -> Tensor:
    """(B, q, D), (B, L, D), sees (B, q, L) -> (B, q, D), zero for a row that sees nothing; `turns`: where q (B, q) and
    k (B, L) stand, for rotary embeddings."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
    if turns is not None:
        q, k = _turned(q, turns[0]), _turned(k, turns[1])
    scores = (q @ k.transpose(2, 3) / q.shape[-1] ** 0.5).masked_fill(~sees[:, None], float("-inf"))
    weights = scores.softmax(-1).nan_to_num(0.0)
    return (weights @ v).transpose(1, 2).flatten(2)


def _turned(x: Tensor, place: Tensor) -> Tensor:
    """(B, H, L, D): the pair of columns i and i + D/2 as a complex number, turned by place * 10000^(-2i/D), angles in
    fp32."""
    half = x.shape[-1] // 2
    angle = place[:, None, :, None].float() * 10_000.0 ** (-torch.arange(half, dtype=torch.float32) / half)
    turned = torch.complex(x[..., :half], x[..., half:]) * torch.complex(
        angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    )
    return torch.cat([turned.real, turned.imag], dim=-1)


def _norm(norm: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(norm, nn.LayerNorm)
    return F.layer_norm(x, x.shape[-1:], norm.weight, norm.bias)
