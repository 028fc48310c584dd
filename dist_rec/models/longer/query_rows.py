"""Which rows of a sequence query in LONGER's cross-causal layer (arXiv 2505.04421, section 3.5)."""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import newest
from dist_rec.models.longer.config import LongerConfig


@dataclass(frozen=True)
class QueryRows:
    """Query rows of a sequence: `index` (sum_q,) into the jagged merged rows `of`, and their `lengths`; `strategy` as
    in the recipe."""

    index: Tensor
    lengths: Lengths
    of: Lengths
    strategy: str

    @cached_property
    def position(self) -> Tensor:
        """(sum_q,) among the rows of the sequence."""
        return self.index - self.of.starts[self.lengths.request]

    @property
    def slot(self) -> Tensor:
        """(sum_q,) place in the sequence, empty ones counted."""
        return self.position if self.of.slots is None else self.of.slot[self.index]


def select_queries(config: LongerConfig, lengths: Lengths) -> QueryRows:
    """Which of each request's M merged rows are query rows.

    recent: the newest min(k, M). uniform: min(k, M) evenly spaced, the newest included. mixed: k // 2 evenly spaced
    among the older ones, then the newest k - k // 2. learnable: k rows that are not events and see all of them, at the
    place of the newest."""
    if config.queries == "learnable":
        rows = lengths.map(lambda n: 0 * n + config.k)
        return QueryRows(rows.counted_from(lengths.ends - 1, step=0), rows, lengths, config.queries)
    if config.k == 0:
        return QueryRows(torch.arange(lengths.total, device=lengths.tensor.device), lengths, lengths, config.queries)
    index, rows = newest(lengths, config.k)
    if config.queries == "recent":
        return QueryRows(index, rows, lengths, config.queries)
    i, start = rows.position, lengths.starts[rows.request]
    M, q = lengths.tensor.long()[rows.request], rows.tensor.long()[rows.request]
    spread = config.k if config.queries == "uniform" else config.k // 2
    evenly, among = torch.minimum(q, torch.full_like(q, spread)), M - (q - spread).clamp(min=0)
    older = ((i + 1) * among).div(evenly.clamp(min=1), rounding_mode="floor") - 1
    return QueryRows(torch.where(i < evenly, start + older, index), rows, lengths, config.queries)
