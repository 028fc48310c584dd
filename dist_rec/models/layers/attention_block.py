"""The transformer block of LONGER's layers and of HyFormer's encoders: pre-LN cross-causal attention and a feed-forward
layer.

Parameters are `12 D^2 + 13 D` (LONGER, section 3.4): four projections with bias, feed-forward expansion 4 with bias,
two LayerNorms. The residual goes around the query rows."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_rec.kernels.cross_causal_attention import Mask, cross_causal_attention
from dist_rec.models.layers.activation import GELU
from dist_rec.models.layers.linear import Linear, linear
from dist_rec.models.layers.norm import LayerNorm


@dataclass(frozen=True)
class AttentionRows:
    """The rows of one attention call, as `cross_causal_attention` takes them.

    `q_rotary` (sum_q,) and `kv_rotary` (sum_kv,) float: positions for rotary embeddings; None without these.
    """

    q_offsets: Tensor
    kv_offsets: Tensor
    mask: Mask
    max_q_len: int | None
    q_rotary: Tensor | None
    kv_rotary: Tensor | None


class CrossCausalBlock(nn.Module):
    """(sum_q, D) query rows and (sum_kv, D) key rows -> (sum_q, D)."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_ffn = LayerNorm(width), LayerNorm(width)
        self.query, self.key, self.value, self.project = (Linear(width, width) for _ in range(4))
        self.ffn = nn.Sequential(
            Linear(width, expansion * width), GELU(), nn.Dropout(dropout), Linear(expansion * width, width)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, keys: Tensor, rows: AttentionRows) -> Tensor:
        normed_q = self.norm_attention(queries)
        normed_kv = normed_q if keys is queries else self.norm_attention(keys)
        return self._attend(queries, normed_q, *self._keys(normed_kv, rows.kv_rotary), rows)

    def key_values(self, keys: Tensor, rotary: Tensor | None) -> Tensor:
        """(N, D) key rows -> (N, 2 D), all that `attend` needs of them; each row's follow from that row alone."""
        k, v = self._keys(self.norm_attention(keys), rotary)
        return (k if v is None else torch.cat([k, v], dim=1)).flatten(1)

    def attend(self, queries: Tensor, key_values: Tensor, rows: AttentionRows) -> Tensor:
        """`forward` of keys (sum_kv, 2 D) that `key_values` has seen; `kv_rotary` of the rows is not read."""
        k = key_values.unflatten(-1, (2 * self.heads, -1))
        return self._attend(queries, self.norm_attention(queries), k, None, rows)

    def _keys(self, normed: Tensor, rotary: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Keys and values (N, H, D / H), or both in one (N, 2 H, D / H)."""
        k = keys_and_values(normed, self.key, self.value).unflatten(-1, (2 * self.heads, -1))
        if rotary is None:
            return k, None
        k, v = k.chunk(2, dim=1)
        return rotate(k, rotary), v

    def _attend(self, queries: Tensor, normed: Tensor, k: Tensor, v: Tensor | None, rows: AttentionRows) -> Tensor:
        q = self.query(normed).unflatten(-1, (self.heads, -1))
        if rows.q_rotary is not None:
            q = rotate(q, rows.q_rotary)
        attended = cross_causal_attention(
            q, k, v, rows.q_offsets, rows.kv_offsets, mask=rows.mask, max_q_len=rows.max_q_len
        )
        queries = queries + self.dropout(self.project(attended.flatten(1)))
        return queries + self.dropout(self.ffn(self.norm_ffn(queries)))


def keys_and_values(rows: Tensor, key: nn.Linear, value: nn.Linear) -> Tensor:
    """(N, D) -> (N, 2 D), the keys before the values: one product, which reads the rows once, backward too."""
    weight = torch.cat([key.weight, value.weight])
    return linear(rows, weight, torch.cat([key.bias, value.bias]))


def rotate(x: Tensor, position: Tensor, base: float = 10_000.0) -> Tensor:
    """Rotary embedding (arXiv 2104.09864): x (N, H, D) rotated by angles position * base^(-2i/D); position (N,)
    float."""
    half = x.shape[-1] // 2
    frequency = base ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angle = position.float()[:, None, None] * frequency
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
