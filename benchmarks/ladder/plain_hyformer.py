"""HyFormer with torch's fused attention, with the parameters of `dist_rec.models.hyformer` by the same names.

Encoders of events run on the tokens as they come, packed or padded; keys and values are padded for the attention.

Legend: B requests, C candidates, c of every request, S sequences, N queries of all sequences, M non-sequential tokens,
T = N + M, D width, L events of the longest request.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention, silu

from benchmarks.ladder.padding import Padding
from dist_rec.models.features import FeatureColumns
from dist_rec.models.hyformer.config import HyFormerConfig


class PlainPerToken(nn.Module):
    """(C, T, in) -> (C, T, out) with weights of its own for each of the T tokens."""

    def __init__(self, tokens: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(tokens, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight).transpose(0, 1)


def _per_token_ffn(tokens: int, inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    first, second = PlainPerToken(tokens, inputs, hidden), PlainPerToken(tokens, hidden, outputs)
    return nn.Sequential(first, nn.GELU(), nn.Dropout(0.0), second)


class PlainEncoder(nn.Module):
    """`x + W_3 (silu(W_1 LN(x)) * W_2 LN(x))` of every event: (..., D) -> (..., D)."""

    def __init__(self, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.gate, self.up = nn.Linear(width, expansion * width), nn.Linear(width, expansion * width)
        self.down = nn.Linear(expansion * width, width)

    def forward(self, events: Tensor) -> Tensor:
        normed = self.norm(events)
        weight, bias = torch.cat([self.gate.weight, self.up.weight]), torch.cat([self.gate.bias, self.up.bias])
        gate, up = linear(normed, weight, bias).chunk(2, -1)
        return events + self.down(silu(gate) * up)


class PlainDecoder(nn.Module):
    """Queries (C, n, D) look at the events of their request: packed (N, D) or padded (B, L, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_query, self.norm_events = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width, bias=False)

    def forward(self, queries: Tensor, events: Tensor, padding: Padding, mask: Tensor) -> Tensor:
        weight, bias = torch.cat([self.key.weight, self.value.weight]), torch.cat([self.key.bias, self.value.bias])
        kv = linear(self.norm_events(events), weight, bias)
        kv = padding.pad(kv) if kv.dim() == 2 else kv
        k, v = kv.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        q = self.query(self.norm_query(queries)).view(len(kv), -1, self.heads, k.shape[-1]).transpose(1, 2)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        # Of a request without events the mask shows one key, since a softmax needs one.
        attended = attended * (padding.lengths > 0)[:, None, None, None]
        return queries + self.project(attended.transpose(1, 2).flatten(2)).view_as(queries)


class PlainMixer(nn.Module):
    """`x + FFN(mix(LN(x)))`: token h of mix(x) has slice h of every token."""

    def __init__(self, tokens: int, width: int, expansion: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.ffn = _per_token_ffn(tokens, width, expansion * width, width)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.norm(x).unflatten(2, (x.shape[1], -1)).transpose(1, 2).flatten(2)
        return x + self.ffn(mixed)


class PlainLayer(nn.Module):
    def __init__(self, config: HyFormerConfig, width: int, counts: dict[str, int], tokens: int) -> None:
        super().__init__()
        self.counts = counts
        self.encoders = nn.ModuleDict({name: PlainEncoder(width, config.ffn_expansion) for name in counts})
        self.decoders = nn.ModuleDict({name: PlainDecoder(width, config.heads) for name in counts})
        self.mixer = PlainMixer(tokens, width, config.mixer_expansion)

    def forward(
        self, x: Tensor, events: dict[str, Tensor], paddings: dict[str, Padding], masks: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        events = {name: encoder(events[name]) for name, encoder in self.encoders.items()}
        parts = list(x.split([*self.counts.values(), x.shape[1] - sum(self.counts.values())], 1))
        for place, (name, decoder) in enumerate(self.decoders.items()):
            parts[place] = decoder(parts[place], events[name], paddings[name], masks[name])
        return self.mixer(torch.cat(parts, 1)), events


class PlainHyFormer(nn.Module):
    """Tokens of every sequence, their pools (B, D), candidates (C, Dc) and context (B, Du) -> (C, T D)."""

    def __init__(self, config: HyFormerConfig, width: int, sequences: list[str], columns: FeatureColumns) -> None:
        super().__init__()
        settings = config.settings(sequences)
        assert all(of.encoder == "swiglu" for of in settings.values()), "what the ladder's recipe has"
        counts = {name: of.queries for name, of in settings.items()}
        self.columns, queries = list(columns.groups.values()), sum(counts.values())
        projections = [nn.Linear(sum(of.stop - of.start for of in group), width) for group in self.columns]
        self.non_sequential = nn.ModuleDict({"project": nn.ModuleList(projections)})
        known = (len(self.columns) + len(counts)) * width
        self.queries = nn.ModuleDict({"ffn": _per_token_ffn(queries, known, config.query_expansion * width, width)})
        tokens = queries + len(self.columns)
        self.num_queries, self.width = queries, tokens * width
        self.layers = nn.ModuleList(PlainLayer(config, width, counts, tokens) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)

    def forward(
        self,
        tokens: dict[str, Tensor],
        paddings: dict[str, Padding],
        pools: dict[str, Tensor],
        candidate: Tensor,
        context: Tensor,
    ) -> Tensor:
        per_request = len(candidate) // len(context)
        together = torch.cat([context.repeat_interleave(per_request, 0), candidate], 1)
        projections: Any = self.non_sequential["project"]
        features = torch.stack(
            [
                project(torch.cat([together[:, columns] for columns in group], 1))
                for project, group in zip(projections, self.columns, strict=True)
            ],
            1,
        )
        pooled = [pool.repeat_interleave(len(candidate) // len(pool), 0) for pool in pools.values()]
        known = torch.cat([features.flatten(1), *pooled], 1)
        queries = self.queries["ffn"](known[:, None].expand(-1, self.num_queries, -1))
        x, masks = torch.cat([queries, features], 1), {name: key_mask(of) for name, of in paddings.items()}
        for layer in self.layers:
            x, tokens = layer(x, tokens, paddings, masks)
        return self.norm(x).flatten(1)


def key_mask(padding: Padding) -> Tensor:
    """(B, 1, 1, L) float32, 0 for events and -inf elsewhere; the last column is 0 also without any event."""
    shown = padding.real.clone()
    shown[:, -1] = True
    return torch.zeros(shown.shape, device=shown.device).masked_fill_(~shown, -torch.inf)[:, None, None]
