"""Which rows of a sequence query in LONGER's cross-causal layer (arXiv 2505.04421, section 3.5)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.models.layers.jagged import position_in_request, segment_ids
from dist_rec.models.longer.config import LongerConfig


@dataclass(frozen=True)
class QueryRows:
    """Query rows from the sequence: `index` (sum_q,) into the jagged merged rows, `position` (sum_q,) in the
    request."""

    index: Tensor
    position: Tensor


def select_queries(config: LongerConfig, lengths: Tensor, total: int) -> tuple[QueryRows, Tensor]:
    """Which of each request's M merged rows are query rows: (QueryRows, (B,) int32 query rows per request).

    recent: the newest min(k, M). uniform: min(k, M) evenly spaced, the newest included. mixed: k // 2 evenly spaced
    among the older ones, then the newest k - k // 2. learnable: k rows that are not events and see all of them."""
    starts = lengths.cumsum(0) - lengths
    if config.k == 0 and config.queries != "learnable":
        position = position_in_request(lengths, total)
        return QueryRows(torch.arange(total, device=lengths.device), position), lengths
    if config.queries == "learnable":
        q_lengths = torch.full_like(lengths, config.k)
        requests = segment_ids(q_lengths, config.k * len(lengths))
        return QueryRows(requests, lengths.long()[requests] - 1), q_lengths
    q_lengths = lengths.clamp(max=config.k)
    num_rows = int(q_lengths.sum())
    requests, i = segment_ids(q_lengths, num_rows), position_in_request(q_lengths, num_rows)
    M, q = lengths.long()[requests], q_lengths.long()[requests]
    recent = M - q + i
    if config.queries == "recent":
        position = recent
    else:
        spread = config.k if config.queries == "uniform" else config.k // 2
        evenly, among = torch.minimum(q, torch.full_like(q, spread)), M - (q - spread).clamp(min=0)
        position = torch.where(
            i < evenly, ((i + 1) * among).div(evenly.clamp(min=1), rounding_mode="floor") - 1, recent
        )
    return QueryRows(starts.long()[requests] + position, position), q_lengths
