"""Feedback tokens: what happened to a candidate after it was served, as keys that only its twin attends to.

Privileged information for a teacher of the same weights: SDPO (arXiv 2601.20802); in ranking, privileged features
distillation (arXiv 1907.05171).

Legend: F twins, n feedback tokens of a twin, E feedback events, U unique rows, W width.
"""

import torch
from torch import Tensor, nn

from dist_rec.data.batch import Feedback
from dist_rec.data.later import FeedbackSchema
from dist_rec.kernels.gather_pool import expand
from dist_rec.kernels.gelu import gelu
from dist_rec.models.config import TokenConfig
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.placed_rows import placed_rows
from dist_rec.models.layers.tokens import BucketTerm, time_bucket


class FeedbackEncoder(nn.Module):
    """Unique rows (U, De) of the feedback's feature set, or None without ids, and the feedback -> (F, n, W).

    Token i is made of event i, `W_2 act(W_1 [e ; tau(elapsed) ; side])` as for events of a sequence, and of a learned
    row of its place, which is all there is where a candidate has fewer events.
    """

    def __init__(
        self, config: TokenConfig, schema: FeedbackSchema, row_dim: int, side: dict[str, int], width: int
    ) -> None:
        super().__init__()
        self.count, self.time_buckets = schema.most, config.time_buckets
        self.ids = Linear(row_dim, config.hidden, bias=False) if row_dim else None
        self.time = BucketTerm(config.time_buckets, config.time_dim, config.hidden) if schema.time else None
        self.side = nn.ModuleDict(
            {name: BucketTerm(size, config.side_dim, config.hidden) for name, size in side.items()}
        )
        self.bias = nn.Parameter(torch.zeros(config.hidden))
        self.out = Linear(config.hidden, width)
        self.place = nn.Embedding(self.count, width)

    def start_large(self) -> None:
        """Side values and times with torch's own spread: a teacher has to find them among many events, with few
        labels."""
        for term in self.modules():
            if isinstance(term, BucketTerm):
                nn.init.normal_(term.embedding.weight)

    def forward(self, rows: Tensor | None, feedback: Feedback) -> Tensor:
        lengths = feedback.lengths
        hidden = self.bias.expand(lengths.total, -1)
        if self.ids is not None:
            assert rows is not None and feedback.inverse is not None, "the schema declares ids"
            hidden = hidden + expand(self.ids(rows), feedback.inverse)
        if self.time is not None:
            assert feedback.age is not None, "the schema declares times"
            hidden = hidden + expand(self.time(), time_bucket(feedback.age, self.time_buckets))
        for name, term in self.side.items():
            hidden = hidden + expand(term(), feedback.side[name].int())
        place = lengths.counted_from(self.count * torch.arange(len(lengths), device=hidden.device))
        tokens = placed_rows([(self.out(gelu(hidden)), place)], self.count * len(lengths), padded=True)
        return tokens.unflatten(0, (len(lengths), self.count)) + self.place.weight
