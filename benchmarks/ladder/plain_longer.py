"""LONGER on padded histories with torch's fused attention: the strongest plain form, with the parameters of
`dist_rec.models.longer` by the same names.

Histories end at the last column, and the rows of the candidates follow. So the query rows, the newest k merged tokens
and the candidates' rows, are the last rows of the keys: the norm of the keys serves them too, and picking them is a
slice. Keys and values are one product; the mask is made once for all layers.

Legend: B requests, L events of the longest, d token width, K merge factor, M = ceil(L / K) merged tokens, D = K d, c
candidates of every request, m rows of a candidate, g = c m, n query rows of the sequence.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention

from benchmarks.ladder.padding import Padding
from dist_rec.models.longer.config import LongerConfig


class PlainBlock(nn.Module):
    """Pre-norm attention of the last `rows` of the keys (B, S, D) to all of them, and the feed-forward layer:
    (B, rows, D)."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.project = (nn.Linear(width, width) for _ in range(4))
        self.ffn = nn.Sequential(
            nn.Linear(width, expansion * width), nn.GELU(), nn.Dropout(0.0), nn.Linear(expansion * width, width)
        )

    def forward(self, keys: Tensor, rows: int, mask: Tensor) -> Tensor:
        first = keys.shape[1] - rows
        normed = self.norm_attention(keys)
        q = self.query(normed[:, first:]).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        weight, bias = torch.cat([self.key.weight, self.value.weight]), torch.cat([self.key.bias, self.value.bias])
        k, v = linear(normed, weight, bias).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = scaled_dot_product_attention(q, k, v, attn_mask=mask)
        state = keys[:, first:] + self.project(attended.transpose(1, 2).flatten(2))
        return state + self.ffn(self.norm_ffn(state))


class PlainInner(nn.Module):
    """InnerTrans: attention among the K slots of each merged group, (G, K, d) and `real` (G, K) -> (G, K, d)."""

    def __init__(self, width: int, heads: int, expansion: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_ffn = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.ffn = nn.Sequential(nn.Linear(width, expansion * width), nn.GELU(), nn.Linear(expansion * width, width))

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        # A slot that sees none, in a group of padding, gets zero from torch, and zero again below.
        attended = scaled_dot_product_attention(q, k, v, attn_mask=real[:, None, None])
        x = x + self.project(attended.transpose(1, 2).flatten(2))
        x = x + self.ffn(self.norm_ffn(x))
        return x.masked_fill(~real.unsqueeze(-1), 0.0)


class PlainGlobals(nn.Module):
    """Rows of the candidates: (B * c, Dc) and (B, Du) -> (B, c * m, D)."""

    def __init__(self, kinds: list[str], dims: dict[str, int], width: int) -> None:
        super().__init__()
        assert set(kinds) <= set(dims), "the ladder's recipes have no learned global token"
        self.kinds = kinds
        self.project = nn.ModuleList(
            nn.Sequential(nn.Linear(dims[kind], width), nn.GELU(), nn.Linear(width, width)) for kind in kinds
        )

    def forward(self, candidate: Tensor, context: Tensor) -> Tensor:
        given = {"candidate": candidate, "user": context}
        projected = [project(given[kind]) for kind, project in zip(self.kinds, self.project, strict=True)]
        requests = len(context)
        rows = [of.view(requests, -1, of.shape[1]).expand(-1, len(candidate) // requests, -1) for of in projected]
        return torch.stack(rows, 2).flatten(1, 2)


class PlainLonger(nn.Module):
    """Tokens, padded (B, L, d) or packed (N, d), candidates (B * c, Dc) and context (B, Du) -> (B * c, m D + D)."""

    def __init__(self, longer: LongerConfig, width: int, candidate_dim: int, context_dim: int) -> None:
        super().__init__()
        assert longer.queries == "recent" and not longer.rotary, "what the ladder's recipes have"
        self.config = longer
        merged = width * longer.merge
        self.inner = PlainInner(width, longer.inner_heads, longer.ffn_expansion) if longer.inner_trans else None
        dims = {"candidate": candidate_dim, "user": context_dim}
        self.width = merged * (len(longer.globals) + 1)
        self.globals = PlainGlobals(list(longer.globals), dims, merged)
        block = (merged, longer.heads, longer.ffn_expansion)
        self.cross = PlainBlock(*block)
        self.layers = nn.ModuleList(PlainBlock(*block) for _ in range(longer.self_layers))
        self.norm = nn.LayerNorm(merged)

    def forward(self, tokens: Tensor, padding: Padding, candidate: Tensor, context: Tensor) -> Tensor:
        tokens = padding.pad(tokens) if tokens.dim() == 2 else tokens
        merged, real = self._merged(tokens, padding)
        groups = self.globals(candidate, context)
        n = min(self.config.k or merged.shape[1], merged.shape[1])
        rows = n + groups.shape[1]
        mask = attention_mask(real, n, groups.shape[1], len(self.config.globals)).to(tokens.dtype)
        state = self.cross(torch.cat([merged, groups], 1), rows, mask)
        for layer in self.layers:
            state = layer(state, rows, mask[..., -rows:])
        state = self.norm(state)
        shown = real[:, -n:] if n else real[:, :0]
        mean = (state[:, :n] * shown[:, :, None]).sum(1) / shown.sum(1).clamp(min=1)[:, None]
        per_candidate = state[:, n:].unflatten(1, (-1, len(self.config.globals))).flatten(2)
        return torch.cat([per_candidate, mean[:, None].expand(-1, per_candidate.shape[1], -1)], 2).flatten(0, 1)

    def _merged(self, tokens: Tensor, padding: Padding) -> tuple[Tensor, Tensor]:
        """(B, M, D), and (B, M) bool: which have an event."""
        K, real = self.config.merge, padding.real
        if K == 1 and self.inner is None:
            return tokens, real
        missing = -tokens.shape[1] % K
        tokens, real = pad(tokens, (0, 0, missing, 0)), pad(real, (missing, 0))
        slots = real.unflatten(1, (-1, K))
        groups = tokens.masked_fill(~real.unsqueeze(-1), 0.0).unflatten(1, (-1, K))
        if self.inner is not None:
            groups = self.inner(groups.flatten(0, 1), slots.flatten(0, 1)).view_as(groups)
        return groups.flatten(2), slots.any(2)


class PlainLongers(nn.Module):
    """A `PlainLonger` for each sequence, side by side: (B * c, width)."""

    def __init__(
        self, longer: LongerConfig, width: int, sequences: list[str], candidate_dim: int, context_dim: int
    ) -> None:
        super().__init__()
        encoders = {name: PlainLonger(longer, width, candidate_dim, context_dim) for name in sequences}
        self.encoders, self.width = nn.ModuleDict(encoders), sum(of.width for of in encoders.values())

    def forward(
        self,
        tokens: dict[str, Tensor],
        paddings: dict[str, Padding],
        _: dict[str, Tensor],
        candidate: Tensor,
        context: Tensor,
    ) -> Tensor:
        parts = [of(tokens[name], paddings[name], candidate, context) for name, of in self.encoders.items()]
        return torch.cat(parts, 1)


def attention_mask(real: Tensor, n: int, g: int, m: int) -> Tensor:
    """(B, 1, n + g, M + g) float32, 0 where a query row sees a key and -inf elsewhere. `real` (B, M): keys with an
    event; the last n of them and the g candidates' rows query. Every row sees itself, so that none sees nothing."""
    keys = real.shape[1] + g
    key, row = torch.arange(keys, device=real.device), torch.arange(keys - n - g, keys, device=real.device)[:, None]
    group = real.shape[1] + (row - real.shape[1]).div(m, rounding_mode="floor") * m  # first row of the row's group
    causal = (key <= row) & ((key < real.shape[1]) | (key >= group))
    shown = (causal & pad(real, (0, g), value=True)[:, None]) | (key == row)
    return torch.zeros(shown.shape, device=real.device).masked_fill_(~shown, -torch.inf).unsqueeze(1)
