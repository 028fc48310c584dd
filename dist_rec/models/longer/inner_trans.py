"""InnerTrans: a small transformer block inside each merged group (LONGER, section 3.4)."""

from torch import Tensor, nn

from dist_rec.kernels.slot_attention import slot_attention
from dist_rec.models.layers.activation import GELU
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.norm import LayerNorm


class InnerTrans(nn.Module):
    """Pre-LN block at width d over the K slots of each group, all slots seeing all real slots.

    (M, K, d) and `real` (M, K) bool -> (M, K, d) with padding slots exactly zero.
    """

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.norm_attention, self.norm_ffn = LayerNorm(width), LayerNorm(width)
        self.qkv, self.project = Linear(width, 3 * width), Linear(width, width)
        self.ffn = nn.Sequential(Linear(width, expansion * width), GELU(), Linear(expansion * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, real: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_attention(x)).unflatten(-1, (3, self.heads, -1))
        x = x + self.dropout(self.project(slot_attention(qkv, real).flatten(2)))
        x = x + self.dropout(self.ffn(self.norm_ffn(x)))
        return x.masked_fill(~real.unsqueeze(-1), 0.0)
