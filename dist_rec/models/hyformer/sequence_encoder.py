"""HyFormer's encoders of one sequence (arXiv 2601.12681, section 3.4): full transformer, LONGER style, SwiGLU.

Legend: B requests, N events of one sequence, L_H newest events, D width. States of a sequence know no candidate, so one
encoding serves all candidates of a request.
"""

from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn.functional import silu

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import Mask
from dist_rec.models.hyformer.config import HyFormerConfig, HyFormerSequence
from dist_rec.models.layers.attention_block import AttentionRows, CrossCausalBlock
from dist_rec.models.layers.jagged import newest
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.norm import LayerNorm
from dist_rec.models.layers.placed_rows import picked_rows


@dataclass(frozen=True)
class Encoded:
    """Jagged rows (N, D) of one sequence, their `lengths`, and `position` (N,) int64 of each row in its sequence.

    `end`: the lengths of the whole sequence, the positions of the queries. `recent`: only so many newest rows are left
    of it, or None while all are there."""

    rows: Tensor
    lengths: Lengths
    position: Tensor
    end: Lengths
    recent: int | None = None

    @classmethod
    def of(cls, tokens: Tensor, lengths: Lengths) -> "Encoded":
        return cls(tokens, lengths, lengths.slot, lengths.places)


class AttentionEncoder(nn.Module):
    """A transformer layer. `full`: every event is a query row. `longer`: the newest `recent` events are, and they
    remain, `CrossAttn(S_short, S, S)`, which on a sequence that short already is the full layer."""

    def __init__(self, config: HyFormerConfig, sequence: HyFormerSequence, width: int) -> None:
        super().__init__()
        self.recent = sequence.recent if sequence.encoder == "longer" else None
        self.causal, self.rotary = sequence.causal, config.rotary
        self.block = CrossCausalBlock(width, config.heads, config.ffn_expansion, config.dropout)

    def forward(self, events: Encoded) -> Encoded:
        querying = events if self.recent in (None, events.recent) else _newest(events, self.recent)
        rows = AttentionRows(
            q_offsets=querying.lengths.offsets,
            kv_offsets=events.lengths.offsets,
            mask=Mask(causal=self.causal),
            max_q_len=self.recent,
            q_rotary=querying.position.float() if self.rotary else None,
            kv_rotary=events.position.float() if self.rotary else None,
        )
        return replace(querying, rows=self.block(querying.rows, events.rows, rows))


class SwigluEncoder(nn.Module):
    """`H = S + W_3 (silu(W_1 LN(S)) * W_2 LN(S))`: every event for itself, no attention. Parameters
    `3 k D^2 + (2 k + 3) D`."""

    def __init__(self, width: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.norm = LayerNorm(width)
        self.gate, self.up = Linear(width, expansion * width), Linear(width, expansion * width)
        self.down = Linear(expansion * width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, events: Encoded) -> Encoded:
        x = self.norm(events.rows)
        hidden = self.down(silu(self.gate(x)) * self.up(x))
        return replace(events, rows=events.rows + self.dropout(hidden))


def make_encoder(config: HyFormerConfig, sequence: HyFormerSequence, width: int) -> AttentionEncoder | SwigluEncoder:
    if sequence.encoder == "swiglu":
        return SwigluEncoder(width, config.ffn_expansion, config.dropout)
    return AttentionEncoder(config, sequence, width)


def _newest(events: Encoded, count: int) -> Encoded:
    index, kept = newest(events.lengths, count)
    return Encoded(picked_rows(events.rows, index), kept, events.position[index], events.end, count)
