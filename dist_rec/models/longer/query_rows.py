"""Which rows of a sequence query in LONGER's cross-causal layer (arXiv 2505.04421, section 3.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.models.longer.config import LongerConfig


@dataclass(frozen=True)
class QueryRows:
    """Query rows from the sequence: `index` (sum_q,) into the jagged merged rows, `position` (sum_q,) in the
    request."""

    index: Tensor
    position: Tensor


def select_queries(config: LongerConfig, lengths: Lengths) -> tuple[QueryRows, Lengths]:
    """Which of each request's M merged rows are query rows, and how many of each request.

    recent: the newest min(k, M). uniform: min(k, M) evenly spaced, the newest included. mixed: k // 2 evenly spaced
    among the older ones, then the newest k - k // 2. learnable: k rows that are not events and see all of them."""
    if config.queries == "learnable":
        rows = lengths.map(lambda n: 0 * n + config.k)
        return QueryRows(rows.request, lengths.tensor.long()[rows.request] - 1), rows
    if config.k == 0:
        return QueryRows(torch.arange(lengths.total, device=lengths.tensor.device), lengths.position), lengths
    rows = lengths.clipped(config.k)
    i = rows.position
    M, q = lengths.tensor.long()[rows.request], rows.tensor.long()[rows.request]
    recent = M - q + i
    if config.queries == "recent":
        position = recent
    else:
        spread = config.k if config.queries == "uniform" else config.k // 2
        evenly, among = torch.minimum(q, torch.full_like(q, spread)), M - (q - spread).clamp(min=0)
        position = torch.where(
            i < evenly, ((i + 1) * among).div(evenly.clamp(min=1), rounding_mode="floor") - 1, recent
        )
    return QueryRows(lengths.starts[rows.request] + position, position), rows
