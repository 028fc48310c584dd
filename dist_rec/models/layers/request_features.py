"""Features of a request beside the rows of its context."""

import torch
from torch import Tensor, nn

from dist_rec.data.batch import RequestValues
from dist_rec.data.kinds import cyclic_names
from dist_rec.data.numbers import as_buckets
from dist_rec.data.schema import Schema
from dist_rec.models.layers.cyclic import CYCLIC_COLUMNS, cyclic_columns
from dist_rec.models.layers.numbers import NumberTerm, small_linear


class RequestFeatures(nn.Module):
    """Values of B requests -> (B, W): every number, as they are declared, and the time of day and of the week, `width`
    columns each."""

    def __init__(self, schema: Schema, width: int) -> None:
        super().__init__()
        buckets = as_buckets(schema.request.numbers)
        self.numbers = nn.ModuleDict(
            {
                name: nn.Embedding(buckets[name], width) if name in buckets else NumberTerm(of, width)
                for name, of in schema.request.numbers.items()
            }
        )
        self.time = small_linear(CYCLIC_COLUMNS, width) if cyclic_names(schema) else None
        self.width = width * (len(self.numbers) + (self.time is not None))

    def forward(self, request: RequestValues) -> Tensor:
        parts = [
            encode(request.side[name].int() if isinstance(encode, nn.Embedding) else request.numbers[name])
            for name, encode in self.numbers.items()
        ]
        if self.time is not None:
            assert request.week is not None, "the schema declares cyclic times"
            parts.append(self.time(cyclic_columns(request.week)))
        return torch.cat(parts, dim=1)
