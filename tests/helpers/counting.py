"""A model that counts the requests that it was trained on, as a recipe names it: tests.helpers.counting:Counting.

A request is known by the lengths of its sequences, which `rows_to_count` makes its own."""

from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_rec.models.layers.jagged import CandidateView, SequenceInputs
from dist_rec.models.options import ModelOptions
from dist_rec.models.protocol import ModelInputs, SequenceModel
from tests.data.requests import make_row

MOST = 22  # events of a sequence, and one


class Counting(SequenceModel):
    """`trained` (MOST * MOST,) int64: how often each request was trained on by all ranks, in every checkpoint."""

    def __init__(self, options: ModelOptions, inputs: ModelInputs) -> None:
        super().__init__()
        self.width = inputs.config.tokens.width
        self.scale = nn.Parameter(torch.ones(self.width))
        self.trained: Tensor
        self.register_buffer("trained", torch.zeros(MOST * MOST, dtype=torch.int64))

    def forward(self, sequences: SequenceInputs, view: CandidateView) -> list[Tensor]:
        if self.training:
            lengths = sequences.lengths
            which = lengths["history"].tensor.long() * MOST + lengths["searches"].tensor
            found = torch.bincount(which, minlength=MOST * MOST)
            dist.all_reduce(found)
            self.trained += found
        events = sum(tokens.sum(0) for tokens in sequences.tokens.values())
        return [(self.scale * events).expand(len(view.request), self.width)]

    def flops(self, lengths: dict[str, int], candidates: int) -> dict[str, int]:
        return {}


def rows_to_count(count: int) -> list[dict[str, Any]]:
    """Requests of `tests.data.requests.make_schema`, no two with sequences of the same lengths."""
    rng = np.random.default_rng(0)
    return [_with_lengths(rng, user, *divmod(user, MOST)) for user in range(count)]


def _with_lengths(rng: np.random.Generator, user: int, events: int, searches: int) -> dict[str, Any]:
    row = make_row(rng, user)
    for name in row:
        if name.startswith("history."):
            row[name] = [1] * events
    row["searches.query"] = [1] * searches
    return row


def trained(weights: dict[str, Tensor]) -> list[int]:
    """How often each request of `rows_to_count` was trained on, by the weights of a checkpoint."""
    (counts,) = (value for name, value in weights.items() if name.endswith("body.trained"))
    return counts.tolist()
