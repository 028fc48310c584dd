"""Event tokens of the plain job: `MLP([(e + p) ; tau ; side values])` for every event, as the papers write it.

The parameters are those of `dist_rec.models.layers.tokens.EventTokens`, by the same names: its first layer has a weight
for each part of the input, which are put side by side here.

Legend: De width of an event's embedding row, d of a token; `...` is (N,) packed events or (B, L) padded ones.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear

from benchmarks.ladder.padding import Padding
from dist_rec.models.config import TokenConfig


class Bucket(nn.Module):
    """A small embedding, and its part of the first layer's weight."""

    def __init__(self, buckets: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(buckets, dim)
        self.weight = nn.Linear(dim, hidden, bias=False)


class PlainTokens(nn.Module):
    """Embedding rows (..., De) of events -> tokens (..., d). Positions count from the newest event."""

    def __init__(self, config: TokenConfig, row_dim: int, side: dict[str, int], has_time: bool) -> None:
        super().__init__()
        assert config.position == "recency", "the only positions that the ladder has"
        self.time_buckets = config.time_buckets
        self.static = nn.Linear(row_dim, config.hidden)
        self.position = nn.Embedding(config.max_positions, row_dim)
        self.time = Bucket(config.time_buckets, config.time_dim, config.hidden) if has_time else None
        self.dynamic = nn.ModuleDict(
            {name: Bucket(size, config.side_dim, config.hidden) for name, size in side.items()}
        )
        self.out = nn.Linear(config.hidden, config.width)

    def forward(self, rows: Tensor, recency: Tensor, beside: list[Tensor]) -> Tensor:
        """`recency` int64, 0 for the newest event: (...,), or (L,) where that is the same for all requests; `beside`:
        what `values` gives."""
        placed = rows + self.position(recency.clamp(max=self.position.num_embeddings - 1))
        weights = [self.static.weight, *(bucket.weight.weight for bucket in self.buckets)]
        return self.out(gelu(linear(torch.cat([placed, *beside], -1), torch.cat(weights, 1), self.static.bias)))

    @property
    def buckets(self) -> list[Bucket]:
        found = [*([] if self.time is None else [self.time]), *self.dynamic.values()]
        return [bucket for bucket in found if isinstance(bucket, Bucket)]

    def values(self, age: Tensor | None, side: dict[str, Tensor]) -> list[Tensor]:
        """Embeddings (..., dim) of time and side values."""
        index = [] if age is None else [(2 * torch.log2(age + 1.0)).long().clamp(max=self.time_buckets - 1)]
        index += [side[name] for name in self.dynamic]
        return [bucket.embedding(of) for bucket, of in zip(self.buckets, index, strict=True)]


class PlainPool(nn.Module):
    """Projected mean over the events of `[e ; tau ; side values]`, zero without events: (..., De) -> (B, D)."""

    def __init__(self, row_dim: int, tokens: PlainTokens, width: int) -> None:
        super().__init__()
        beside = sum(bucket.embedding.embedding_dim for bucket in tokens.buckets)
        self.project = nn.Linear(row_dim + beside, width, bias=False)

    def forward(self, rows: Tensor, beside: list[Tensor], padding: Padding) -> Tensor:
        values = torch.cat([rows, *beside], -1)
        if values.dim() == 2:
            sums = values.new_zeros(len(padding.lengths), values.shape[1]).index_add(0, padding.request, values)
        else:
            sums = values.masked_fill(~padding.real[:, :, None], 0.0).sum(1)
        return self.project(sums / padding.lengths.clamp(min=1)[:, None])
