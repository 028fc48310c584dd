"""The mean of a sequence, as HyFormer's queries see it (arXiv 2601.12681, section 3.3), straight from unique rows."""

import torch
from torch import Tensor, nn

from dist_rec.data.batch import JaggedEvents
from dist_rec.kernels.gather_pool import expand, pool
from dist_rec.models.layers.jagged import CandidateView, visible_mean
from dist_rec.models.layers.linear import Linear
from dist_rec.models.layers.tokens import EventTokens


class SequencePool(nn.Module):
    """Unique rows (U, De) and the events of one sequence -> (C, D): projected mean of
    `[e_t ; tau(dt_t) ; side values]`. Fields with n-grams come from `fused` (N, Df), as in the tokens, and numbers from
    `beside` (N, K), which are the last columns.

    Embeddings of times and side values are those of the sequence's tokens. Without a bias: no events, no pool.
    """

    def __init__(self, row_dim: int, tokens: EventTokens, width: int) -> None:
        super().__init__()
        terms = [*([] if tokens.time is None else [tokens.time]), *tokens.dynamic.values()]
        beside = 0 if tokens.columns is None else tokens.columns.num_columns
        self.project = Linear(row_dim + sum(term.weight.in_features for term in terms) + beside, width, bias=False)

    def forward(
        self,
        rows: Tensor,
        events: JaggedEvents,
        tokens: EventTokens,
        view: CandidateView,
        fused: Tensor | None = None,
        beside: Tensor | None = None,
    ) -> Tensor:
        parts = [(rows, events.inverse), *((term.embedding.weight, index) for term, index in tokens.buckets(events))]
        if fused is not None:
            assert tokens.ngrams is not None, "made with n-grams"
            others, _ = tokens.ngrams.split(rows)
            unique = [(others, events.inverse)] if others.shape[1] else []
            parts = [*unique, (fused, events.lengths.rows), *parts[1:]]
        if beside is not None:
            parts.append((beside.to(rows.dtype), events.lengths.rows))
        if view.prefix_len is None:
            means = [pool(table, index, events.lengths.offsets, mode="mean") for table, index in parts]
            means = torch.cat(means, dim=1)
            return view.of_request(self.project(means.to(torch.promote_types(means.dtype, torch.float32))))
        values = torch.cat([expand(table, index) for table, index in parts], dim=1)
        return self.project(visible_mean(values, events.lengths, view))
