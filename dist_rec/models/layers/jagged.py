"""Index arithmetic for jagged sequences: which row goes where.

Legend: B requests, C candidates, m rows per candidate group, M merged tokens of one request.
"""

from dataclasses import dataclass, replace
from functools import reduce

from torch import Tensor

from dist_rec.data.lengths import Lengths
from dist_rec.data.slots import joined_slots
from dist_rec.kernels.gather_pool import expand
from dist_rec.kernels.prefix_sum import prefix_sum
from dist_rec.kernels.unique_ids import Segments
from dist_rec.models.layers.placed_rows import placed_rows


@dataclass(frozen=True)
class Twins:
    """The candidates of a view that also see feedback; they come after the others of their request.

    - `place` (F,) int64 of each among all candidates of the view, `counts` of the B requests
    - `tokens` (F, n, W): keys that only the twin itself attends to
    """

    place: Tensor
    counts: Lengths
    tokens: Tensor

    @property
    def rows(self) -> Tensor:
        """(F * n, W)"""
        return self.tokens.flatten(0, 1)

    @property
    def per_twin(self) -> int:
        """n"""
        return self.tokens.shape[1]


@dataclass(frozen=True)
class CandidateView:
    """What a sequence encoder may know about the candidates of a batch, besides the events.

    - `features` (C, Dc) float, embeddings of each candidate
    - `context` (B, Du) float, embeddings of each request, or None
    - `counts`: candidates of the B requests
    - `prefix_len`: how many of the oldest events each of the C candidates attends to, or None for all
    - `prefix_slots`: how many of the oldest slots, where it differs: a filter leaves some empty
    - `twins`: which of the candidates see feedback, in training with a teacher
    """

    features: Tensor
    context: Tensor | None
    counts: Lengths
    prefix_len: Lengths | None
    prefix_slots: Lengths | None = None
    twins: Twins | None = None

    @property
    def request(self) -> Tensor:
        """(C,) int32, the request each candidate belongs to."""
        return self.counts.request

    def of_request(self, rows: Tensor) -> Tensor:
        """(B, W) -> (C, W): each candidate's row of its request. The gradients of a request's candidates are added in
        their order, without a sort."""
        counts = self.counts
        return expand(rows, counts.request, segments=Segments(counts.rows, counts.offsets))

    def visible(self, events: Lengths) -> Lengths:
        """How many of the events of its request each of the C candidates sees."""
        return events.of_each(self.counts) if self.prefix_len is None else self.prefix_len

    def end(self, places: Lengths) -> Lengths:
        """The first place that each of the C candidates does not see, in a sequence with so many `places`."""
        if self.prefix_len is None:
            return places.of_each(self.counts)
        return self.prefix_len if self.prefix_slots is None else self.prefix_slots


@dataclass(frozen=True)
class Jagged:
    """Rows (N, W) of requests, request after request, and how many each has."""

    values: Tensor
    lengths: Lengths


@dataclass(frozen=True)
class SequenceInputs:
    """Every behaviour sequence by name: jagged event `tokens` (N_s, d), the `lengths` of the requests, and where the
    model asks for them `pools` (C, d), the mean over the events that each candidate sees."""

    tokens: dict[str, Tensor]
    lengths: dict[str, Lengths]
    pools: dict[str, Tensor]


def newest(lengths: Lengths, count: int) -> tuple[Tensor, Lengths]:
    """Index of the newest `count` rows of each request, or all it has, into jagged rows, and how many."""
    kept = lengths.clipped(count)
    return kept.counted_from(lengths.ends - kept.tensor), kept


def join_sequences(parts: list[Tensor], lengths: list[Lengths]) -> tuple[Tensor, Lengths]:
    """Jagged sequences (N_s, W) of the same requests, one after the other in every request: (sum N_s, W), and their
    lengths together."""
    together = reduce(Lengths.plus, lengths)
    before, placed = together.starts, []
    for part, own in zip(parts, lengths, strict=True):
        placed.append((part, own.counted_from(before)))
        before = before + own.tensor
    if any(own.slots is not None for own in lengths):
        together = replace(together, slots=joined_slots(lengths, together, [place for _, place in placed]))
    return placed_rows(placed, together.total), together


@dataclass(frozen=True)
class GroupLayout:
    """Rows of every request as `[events oldest..newest, group 1, ..., group c]`, jagged over requests.

    - `event_index` (sum events,), `group_index` (C * m,) int64: the index of each row in the result
    - `lengths` of the result
    """

    event_index: Tensor
    group_index: Tensor
    lengths: Lengths

    @classmethod
    def of(cls, events: Lengths, candidates: Lengths, group_size: int) -> "GroupLayout":
        groups = candidates.times(group_size)
        together = events.plus(groups)
        event_index = events.counted_from(together.starts)
        group_index = groups.counted_from(events.ends + groups.starts)
        return cls(event_index, group_index, together)

    def join(self, events: Tensor, groups: Tensor) -> Tensor:
        """(sum events, W) and (C * m, W) -> (sum events + C * m, W)."""
        return placed_rows([(events, self.event_index), (groups, self.group_index)], self.lengths.total)


def visible_mean(values: Tensor, lengths: Lengths, view: CandidateView) -> Tensor:
    """(N, W) jagged event rows -> (C, W): mean over the events each candidate sees; zeros where it sees none.

    Sums and result are fp32 where the rows are fp16 or bf16: a bf16 sum of ones stops growing at 256.
    """
    if view.prefix_len is None:
        sums = prefix_sum(values, lengths.offsets)
        return view.of_request(sums / lengths.tensor.clamp(min=1).unsqueeze(1))
    visible = view.prefix_len.tensor
    sums = prefix_sum(values, lengths.offsets, view.counts.offsets, visible)
    return sums / visible.clamp(min=1).unsqueeze(1)
