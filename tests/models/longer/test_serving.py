"""Sequence rows and groups apart are LONGER's layers over both."""

import pytest
import torch

from dist_rec.data.lengths import Lengths
from dist_rec.models.layers.jagged import Jagged
from dist_rec.models.longer.model import Longer
from tests.models.batches import longer_config, make_inputs, make_view, model_config

LENGTHS = [5, 0, 9, 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"merge": 1, "inner_trans": False, "k": 3},
        {"merge": 2, "k": 2, "self_layers": 2},
        {"merge": 1, "k": 0, "self_layers": 2, "rotary": True},
        {"merge": 2, "k": 4, "queries": "uniform", "rotary": True},
        {"merge": 3, "k": 4, "queries": "mixed"},
        {"merge": 2, "k": 3, "queries": "learnable", "rotary": True},
        {"merge": 1, "k": 3, "self_layers": 0},
    ],
)
@torch.no_grad()
def test_apart_they_are_the_same(changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    config = model_config(longer=changes)
    model = Longer(longer_config(**changes), make_inputs(config)).double().eval()
    view, lengths = make_view([2, 1, 3, 0]), Lengths.of(LENGTHS)
    tokens = torch.randn(lengths.total, config.tokens.width, dtype=torch.float64)
    states = model.event_states(tokens.clone(), lengths)
    groups = lengths.map(lambda n: (n + model.group_size() - 1) // model.group_size())
    # States that are not read again may hold anything.
    kept = torch.zeros(groups.total, dtype=torch.bool).index_fill(0, model.read_again(groups), True)
    for passing in states.passing.values():
        passing[~kept] = torch.nan
    parts = {part: Jagged(values, groups) for part, values in states.kept.items()}
    got = model.score(parts | model.encode(states, groups), lengths, view)
    torch.testing.assert_close(got, model(tokens, lengths, view), rtol=1e-10, atol=1e-10)
