"""HyFormer's query decoding (arXiv 2601.12681, section 3.5): queries of every candidate look at one encoded sequence.

Legend: C candidates, n queries of one sequence, D width.
"""

from torch import Tensor, nn

from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.models.hyformer.sequence_encoder import Encoded
from dist_rec.models.layers.attention_block import keys_and_values, rotate
from dist_rec.models.layers.jagged import CandidateView
from dist_rec.models.layers.norm import LayerNorm


class QueryDecoder(nn.Module):
    """`Q + MHA(LN(Q), K, V)` with `K = LN(H) W_K`, `V = LN(H) W_V`: (C, n, D) -> (C, n, D).

    All candidates of a request query one history. The output projection has no
    bias: attention over an empty sequence gives zero, and the queries stay exactly as they are.
    """

    def __init__(self, width: int, heads: int, rotary: bool, dropout: float) -> None:
        super().__init__()
        self.heads, self.rotary = heads, rotary
        self.norm_query, self.norm_events = LayerNorm(width), LayerNorm(width)
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.project = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, events: Encoded, view: CandidateView) -> Tensor:
        n = queries.shape[1]
        normed = self.norm_events(events.rows)
        q = self.query(self.norm_query(queries).flatten(0, 1)).unflatten(-1, (self.heads, -1))
        k, v = keys_and_values(normed, self.key, self.value).unflatten(-1, (2 * self.heads, -1)), None
        # Where a candidate sees only its own oldest events, its queries have the position of the last one.
        last = None if view.prefix_len is None else (view.prefix_len.tensor - 1).repeat_interleave(n)
        if self.rotary:
            end = view.end(events.end).tensor
            k, v = k.chunk(2, dim=1)
            q, k = rotate(q, end.repeat_interleave(n)), rotate(k, events.position)
        attended = cross_causal_attention(
            q,
            k,
            v,
            view.counts.times(n).offsets,
            events.lengths.offsets,
            causal=last is not None,
            q_positions=last,
            max_q_len=n * view.counts.longest,
        )
        return queries + self.dropout(self.project(attended.flatten(1))).view_as(queries)
