"""Numbers as columns that a linear layer can use: piecewise-linear encoding (Gorishniy et al., arXiv 2203.05556,
section 3.1), or standardised values.

Legend: N numbers of one field, T bins, K columns.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dist_rec.data.batch import JaggedEvents, RequestValues
from dist_rec.data.numbers import NumberField
from dist_rec.models.layers.cyclic import CYCLIC_COLUMNS, cyclic_columns, week_before
from dist_rec.models.layers.linear import Linear

START = 0.1  # spread of what a number adds at the start, as of side values


class NumberColumns(nn.Module):
    """(N,) float, NaN where it is missing -> (N, K). Learns nothing.

    - `piecewise`: T + 1 columns. That of bin t is how far the number reaches into the bin: 0 below it, 1 above it, in
      between (x - b_{t-1}) / (b_t - b_{t-1}). The first and the last bin go on for one more width outside, to -1 and 2,
      so that no outlier is larger than that
    - `value`: (x - mean) / std
    - the last column is 1 where the number is missing, and all others are 0 there: its weight is the row of missing
    """

    low: Tensor
    width: Tensor
    least: Tensor
    most: Tensor

    def __init__(self, field: NumberField) -> None:
        super().__init__()
        self.log, self.is_piecewise = field.scale == "log", field.encoding != "value"
        if self.is_piecewise:
            knots = torch.from_numpy(field.knots.copy())
            low, width = knots[:-1], knots.diff()
        else:
            assert field.fitted is not None, "checked at the door"
            low, width = torch.tensor([field.fitted.mean]), torch.tensor([field.fitted.std])
        # Of the field, not of the weights: checkpoints keep the schema.
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("width", width, persistent=False)
        least, most = torch.zeros(len(low)), torch.ones(len(low))
        least[0], most[-1] = -1.0, 2.0
        self.register_buffer("least", least, persistent=False)
        self.register_buffer("most", most, persistent=False)

    def forward(self, values: Tensor) -> Tensor:
        values = values.to(self.low.dtype)
        missing = values.isnan()
        values = values.masked_fill(missing, 0.0)
        if self.log:
            values = values.sign() * values.abs().log1p()
        columns = (values[:, None] - self.low) / self.width
        if self.is_piecewise:
            columns = torch.minimum(torch.maximum(columns, self.least), self.most)
        columns = columns.masked_fill(missing[:, None], 0.0)
        return torch.cat([columns, missing[:, None].to(columns.dtype)], dim=1)


class NumberTerm(nn.Module):
    """(N,) float, NaN where it is missing -> (N, D): a linear layer over its columns, without a bias."""

    def __init__(self, field: NumberField, width: int) -> None:
        super().__init__()
        self.columns = NumberColumns(field)
        self.weight = small_linear(field.num_columns, width)

    def forward(self, values: Tensor) -> Tensor:
        return self.weight(self.columns(values))


class EventColumns(nn.Module):
    """What events of one sequence have beside rows and buckets -> (N, K): the columns of all numbers side by side, then
    with `cyclic` the time of day and of the week. Learns nothing."""

    def __init__(self, numbers: Mapping[str, NumberField], *, cyclic: bool) -> None:
        super().__init__()
        self.fields = nn.ModuleDict({name: NumberColumns(of) for name, of in numbers.items()})
        self.cyclic = cyclic
        self.num_columns = sum(of.num_columns for of in numbers.values()) + CYCLIC_COLUMNS * cyclic

    def forward(self, events: JaggedEvents, request: RequestValues | None) -> Tensor:
        found = [columns(events.numbers[name]) for name, columns in self.fields.items()]
        if self.cyclic:
            assert request is not None and request.week is not None and events.age is not None, "the schema has times"
            found.append(cyclic_columns(week_before(request.week[events.lengths.request], events.age)))
        return torch.cat(found, dim=1)


def small_linear(columns: int, width: int) -> Linear:
    """Without a bias; what it gives starts as small as embeddings of side values, however many columns there are."""
    layer = Linear(columns, width, bias=False)
    nn.init.normal_(layer.weight, std=START / columns**0.5)
    return layer
