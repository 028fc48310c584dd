"""HyFormer's query decoding (arXiv 2601.12681, section 3.5): queries of every candidate look at one encoded sequence.

Legend: C candidates, n queries of one sequence, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import Mask, cross_causal_attention
from dist_rec.models.hyformer.sequence_encoder import Encoded
from dist_rec.models.layers.attention_block import keys_and_values, rotate
from dist_rec.models.layers.jagged import CandidateView, GroupLayout, Jagged
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.norm import LayerNorm


class QueryDecoder(nn.Module):
    """`Q + MHA(LN(Q), K, V)` with `K = LN(H) W_K`, `V = LN(H) W_V`: (C, n, D) -> (C, n, D).

    All candidates of a request query one history. The output projection has no
    bias: attention over an empty sequence gives zero, and the queries stay exactly as they are. A twin's queries also
    look at its feedback tokens, which come after the events as a group of its own.
    """

    def __init__(self, width: int, heads: int, rotary: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norm_query, self.norm_events = LayerNorm(width), LayerNorm(width)
        self.query, self.key, self.value = (Linear(width, width) for _ in range(3))
        self.project = Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def key_values(self, events: Encoded) -> Tensor:
        """(N, D) encoded events -> (N, 2 D), all that `decode` needs of them; each row's follow from that row alone."""
        kv = keys_and_values(self.norm_events(events.rows), self.key, self.value).unflatten(-1, (2 * self.heads, -1))
        if self.rotary:
            k, v = kv.chunk(2, dim=1)
            kv = torch.cat([rotate(k, events.position), v], dim=1)
        return kv.flatten(1)

    def decode(self, queries: Tensor, keys: Jagged, events: Lengths, view: CandidateView) -> Tensor:
        """`forward` of keys (N, 2 D) that `key_values` has seen, for candidates that see all `events`."""
        n = queries.shape[1]
        q = self.query(self.norm_query(queries).flatten(0, 1)).unflatten(-1, (self.heads, -1))
        if self.rotary:
            q = rotate(q, view.end(events).tensor.repeat_interleave(n))
        attended = cross_causal_attention(
            q,
            keys.values.unflatten(-1, (2 * self.heads, -1)),
            None,
            view.counts.times(n).offsets,
            keys.lengths.offsets,
            mask=Mask(causal=False),
            max_q_len=n * view.counts.longest,
        )
        return queries + self.dropout(self.project(attended.flatten(1))).view_as(queries)

    def forward(self, queries: Tensor, events: Encoded, view: CandidateView) -> Tensor:
        n = queries.shape[1]
        end = view.end(events.end).tensor if self.rotary or view.twins is not None else None
        keys = _keys(events, view, n, end)
        normed = self.norm_events(keys.rows)
        q = self.query(self.norm_query(queries).flatten(0, 1)).unflatten(-1, (self.heads, -1))
        k, v = keys_and_values(normed, self.key, self.value).unflatten(-1, (2 * self.heads, -1)), None
        if self.rotary and end is not None:
            k, v = k.chunk(2, dim=1)
            q, k = rotate(q, end.repeat_interleave(n)), rotate(k, keys.position)
        attended = cross_causal_attention(
            q,
            k,
            v,
            view.counts.times(n).offsets,
            keys.lengths.offsets,
            mask=keys.mask,
            max_q_len=n * view.counts.longest,
        )
        return queries + self.dropout(self.project(attended.flatten(1))).view_as(queries)


@dataclass(frozen=True)
class _Keys:
    """Rows (N, D) that queries look at, how many of each request, their positions (N,), and who sees which."""

    rows: Tensor
    lengths: Lengths
    position: Tensor
    mask: Mask


def _keys(events: Encoded, view: CandidateView, n: int, end: Tensor | None) -> _Keys:
    """Of candidates with `n` queries each; `end` (C,): the first place that each does not see, for twins."""
    twins = view.twins
    if twins is None and view.prefix_len is None:
        return _Keys(events.rows, events.lengths, events.position, Mask(causal=False))
    # A query has the position of the last key that its candidate sees.
    last = view.visible(events.lengths).tensor - 1
    if twins is None or end is None:
        mask = Mask(q_positions=last.repeat_interleave(n))
        return _Keys(events.rows, events.lengths, events.position, mask)
    size = twins.per_twin
    layout = GroupLayout.of(events.lengths, twins.counts, size)
    of_twins = layout.group_index[size - 1 :: size] - layout.lengths.starts[twins.counts.request]
    mask = Mask(
        num_candidates=twins.counts.tensor,
        group_size=size,
        prefix_len=None if view.prefix_len is None else view.prefix_len.tensor[twins.place],
        q_positions=last.long().index_copy(0, twins.place, of_twins).repeat_interleave(n),
    )
    ends = end[twins.place].repeat_interleave(size)
    position = layout.join(events.position[:, None], ends[:, None])[:, 0]
    return _Keys(layout.join(events.rows, twins.rows), layout.lengths, position, mask)
