"""Index arithmetic for jagged sequences: which row goes where.

Legend: B requests, C candidates, m rows per candidate group, M merged tokens of one request.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from dist_rec.data.batch import SequenceBatch


@dataclass(frozen=True)
class CandidateView:
    """What a sequence encoder may know about the candidates of a batch, besides the events.

    - `features` (C, Dc) float, embeddings of each candidate
    - `context` (B, Du) float, embeddings of each request, or None
    - `request` (C,) int64, the request each candidate belongs to
    - `counts` (B,) int32, candidates per request
    - `prefix_len` (C,) int32, how many of the oldest events each candidate attends to, or None for all
    - `max_count`: the largest of `counts`, known on the host
    """

    features: Tensor
    context: Tensor | None
    request: Tensor
    counts: Tensor
    prefix_len: Tensor | None
    max_count: int

    @classmethod
    def of(cls, batch: SequenceBatch, features: Tensor, context: Tensor | None) -> "CandidateView":
        counts = batch.candidates.lengths
        return cls(
            features,
            context,
            segment_ids(counts, batch.num_candidates),
            counts,
            batch.visible_events,
            batch.max_candidates,
        )


@dataclass(frozen=True)
class SequenceInputs:
    """Every behaviour sequence by name: jagged event `tokens` (N_s, d), `lengths` (B,) int32, and where the model asks
    for them `pools` (C, d), the mean over the events that each candidate sees."""

    tokens: dict[str, Tensor]
    lengths: dict[str, Tensor]
    pools: dict[str, Tensor]


def offsets_of(lengths: Tensor) -> Tensor:
    """(B,) -> (B + 1,) int32 prefix sums."""
    return torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def segment_ids(lengths: Tensor, total: int) -> Tensor:
    """(total,) int64: the request of every jagged row."""
    return torch.arange(len(lengths), device=lengths.device).repeat_interleave(lengths, output_size=total)


def position_in_request(lengths: Tensor, total: int) -> Tensor:
    """(total,) int64: 0 for the oldest row of each request."""
    starts = lengths.cumsum(0) - lengths
    return torch.arange(total, device=lengths.device) - starts[segment_ids(lengths, total)]


def newest(lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Index of the newest `count` rows of each request, or all it has, into jagged rows, and how many (B,) int32."""
    kept = lengths.clamp(max=count)
    total = int(kept.sum())
    requests = segment_ids(kept, total)
    ends = lengths.cumsum(0)
    return (ends - kept)[requests] + position_in_request(kept, total), kept


def join_sequences(parts: list[Tensor], lengths: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Jagged sequences (N_s, W) of the same requests, one after the other in every request: (sum N_s, W), lengths
    (B,)."""
    together = torch.stack(lengths).sum(0)
    before = together.cumsum(0) - together
    out = parts[0].new_empty(sum(len(part) for part in parts), parts[0].shape[1])
    for part, own in zip(parts, lengths, strict=True):
        place = before[segment_ids(own, len(part))] + position_in_request(own, len(part))
        out = out.index_copy(0, place, part)
        before = before + own
    return out, together.int()


@dataclass(frozen=True)
class GroupLayout:
    """Rows of every request as `[events oldest..newest, group 1, ..., group c]`, jagged over requests.

    - `event_index` (sum events,), `group_index` (C * m,) int64: the index of each row in the result
    - `lengths` (B,) and `offsets` (B + 1,) int32 of the result
    """

    event_index: Tensor
    group_index: Tensor
    lengths: Tensor
    offsets: Tensor

    @classmethod
    def of(
        cls, event_lengths: Tensor, num_events: int, counts: Tensor, num_candidates: int, group_size: int
    ) -> "GroupLayout":
        groups = counts * group_size
        group_starts = groups.cumsum(0) - groups
        event_index = (
            torch.arange(num_events, device=counts.device) + group_starts[segment_ids(event_lengths, num_events)]
        )
        num_groups = num_candidates * group_size
        group_index = (
            torch.arange(num_groups, device=counts.device) + event_lengths.cumsum(0)[segment_ids(groups, num_groups)]
        )
        lengths = (event_lengths + groups).int()
        return cls(event_index, group_index, lengths, offsets_of(lengths))

    def join(self, events: Tensor, groups: Tensor) -> Tensor:
        """(sum events, W) and (C * m, W) -> (sum events + C * m, W)."""
        rows = events.new_empty(len(events) + len(groups), events.shape[1])
        return rows.index_copy(0, self.event_index, events).index_copy(0, self.group_index, groups.to(events.dtype))


def visible_mean(values: Tensor, lengths: Tensor, view: CandidateView) -> Tensor:
    """(N, W) jagged event rows -> (C, W): mean over the events each candidate sees; zeros where it sees none.

    Sums and result are fp32 where the rows are fp16 or bf16: a bf16 sum of ones stops growing at 256.
    """
    total = values.shape[0]
    values = values.to(torch.promote_types(values.dtype, torch.float32))
    if view.prefix_len is None:
        sums = values.new_zeros(len(lengths), values.shape[1]).index_add(0, segment_ids(lengths, total), values)
        return (sums / lengths.clamp(min=1).unsqueeze(1))[view.request]
    # Prefix sums per request, padded, so that neither other requests nor later events can change a sum's rounding.
    longest = int(lengths.max()) if len(lengths) else 0
    padded = values.new_zeros(len(lengths), longest + 1, values.shape[1])
    place = segment_ids(lengths, total) * (longest + 1) + position_in_request(lengths, total) + 1
    sums = padded.flatten(0, 1).index_copy(0, place, values).view_as(padded).cumsum(1)
    return sums[view.request, view.prefix_len.long()] / view.prefix_len.clamp(min=1).unsqueeze(1)
