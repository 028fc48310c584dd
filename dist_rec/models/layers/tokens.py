"""Event tokens: `x_t = W_2 act(W_1 [(e_t + p_t) ; tau(dt_t) ; side])` (LONGER, arXiv 2505.04421, section 3.4).

The first linear layer is linear in its parts, so it is applied before anything is expanded: `W_e e` once per unique
token (U rows), `W_e p` once per position, `W_t tau` once per time bucket and side value. Per event there remain only
gathers, a sum (both one pass, `expand_add`) and the activation. Exact up to rounding.

Fields with n-grams and numbers differ from event to event. Their part of the layer is applied to the N events; the rest
stays as it is.
"""

import torch
from torch import Tensor, nn

from dist_rec.data.batch import JaggedEvents
from dist_rec.kernels.gather_pool import expand, expand_add
from dist_rec.kernels.gather_pool.checks import MOST_TERMS
from dist_rec.kernels.gelu import gelu
from dist_rec.models.config import TokenConfig
from dist_rec.models.layers.event_ngrams import EventNgrams
from dist_rec.models.layers.linear import Linear, linear
from dist_rec.models.layers.numbers import EventColumns, small_linear

MOST_PAIRS = 1024


class EventTokens(nn.Module):
    """Unique rows (U, De) of a feature set and the events of one sequence -> jagged tokens (N, d).

    With `ngrams`, `fused` (N, Df) are its outputs, in the place of the fields' columns in `rows`. With `columns`,
    `beside` (N, K) are its outputs: one more term of the first layer."""

    def __init__(
        self,
        config: TokenConfig,
        row_dim: int,
        side: dict[str, int],
        has_time: bool,
        dropout: float,
        ngrams: EventNgrams | None = None,
        columns: EventColumns | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.ngrams = ngrams
        self.columns = columns
        # `static` and `dynamic` are names in checkpoints: the parts of ids and of side values.
        self.static = Linear(row_dim, config.hidden)
        self.position = nn.Embedding(config.max_positions, row_dim) if config.position != "none" else None
        self.time = BucketTerm(config.time_buckets, config.time_dim, config.hidden) if has_time else None
        self.dynamic = nn.ModuleDict(
            {name: BucketTerm(size, config.side_dim, config.hidden) for name, size in side.items()}
        )
        self.beside = small_linear(columns.num_columns, config.hidden) if columns is not None else None
        self.dropout = nn.Dropout(dropout)
        self.out = Linear(config.hidden, config.width)

    def forward(
        self, rows: Tensor, events: JaggedEvents, fused: Tensor | None = None, beside: Tensor | None = None
    ) -> Tensor:
        terms: list[tuple[Tensor, Tensor]] = []
        if self.position is not None:
            terms.append((self.position.weight @ self.static.weight.T, self._position_index(events)))
        terms += joined([(term(), index) for term, index in self.buckets(events)])
        whole = fused is None and beside is None and len(terms) <= MOST_TERMS
        unique, of_events = self._first_layer(rows, fused)
        hidden = expand_add(unique, events.inverse, terms[:MOST_TERMS], gelu=whole)
        for table, index in terms[MOST_TERMS:]:
            hidden = hidden + expand(table, index)
        hidden = hidden if of_events is None else hidden + of_events
        if beside is not None:
            assert self.beside is not None, "made with columns"
            hidden = hidden + self.beside(beside)
        return self.out(self.dropout(hidden if whole else gelu(hidden)))

    def _first_layer(self, rows: Tensor, fused: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Of the unique rows (U, hidden), and of what differs between events (N, hidden)."""
        if fused is None:
            return self.static(rows), None
        assert self.ngrams is not None, "made with n-grams"
        weight, of_ngrams = self.ngrams.split(self.static.weight)
        others, _ = self.ngrams.split(rows)
        return linear(others, weight, self.static.bias), linear(fused, of_ngrams)

    def buckets(self, events: JaggedEvents) -> "list[tuple[BucketTerm, Tensor]]":
        """Time and side values of the events: each with the bucket (N,) int32 of every event."""
        found: list[tuple[BucketTerm, Tensor]] = []
        if self.time is not None:
            assert events.age is not None, "the schema declares event times"
            found.append((self.time, time_bucket(events.age, self.config.time_buckets)))
        for name, term in self.dynamic.items():
            assert isinstance(term, BucketTerm)
            found.append((term, events.side[name].int()))
        return found

    def places(self, events: JaggedEvents) -> list[Tensor]:
        """(N,) each: what the token of an event depends on beside its ids and `beside`."""
        positions = [] if self.position is None else [self._position_index(events)]
        return [*positions, *(index for _, index in self.buckets(events))]

    def _position_index(self, events: JaggedEvents) -> Tensor:
        newest_first, most = self.config.position == "recency", self.config.max_positions - 1
        lengths = events.lengths
        if lengths.slots is not None:
            slot, last = lengths.slots.position, lengths.places.tensor[lengths.request] - 1
            return (last - slot if newest_first else slot).clamp(max=most)
        first, step = (lengths.tensor - 1, -1) if newest_first else (None, 1)
        return lengths.counted_from(first, step=step, most=most, dtype=torch.int32)


def joined(terms: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
    """Small tables (K, hidden) and their indices (N,): of neighbours two become one with a row for every pair of their
    rows, if there are few pairs. Every lookup of all events less is one pass over their gradient less."""
    found: list[tuple[Tensor, Tensor]] = []
    for table, index in terms:
        if found and len(found[-1][0]) * len(table) <= MOST_PAIRS:
            before, before_index = found.pop()
            pairs = (before[:, None] + table).flatten(0, 1)
            table, index = pairs, torch.add(index, before_index, alpha=len(table))
        found.append((table, index))
    return found


class BucketTerm(nn.Module):
    """A small embedding already multiplied by its part of the first linear layer: () -> (buckets, hidden)."""

    def __init__(self, buckets: int, dim: int, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(buckets, dim)
        self.weight = nn.Linear(dim, hidden, bias=False)

    def forward(self) -> Tensor:
        return self.weight(self.embedding.weight)


def time_bucket(age: Tensor, buckets: int) -> Tensor:
    """(N,) int32 seconds -> (N,) int32 in [0, buckets): two buckets per doubling, 0 for zero seconds."""
    return (2 * torch.log2(age + 1.0)).int().clamp(max=buckets - 1)
