"""The two halves of a ranker are its forward."""

import pytest
import torch

from dist_rec.models.halves import Halves
from dist_rec.models.layers.jagged import Jagged
from tests.data.requests import make_rows, make_schema
from tests.models.batches import MODELS, make_batch, make_model


@pytest.mark.parametrize("model", MODELS)
@torch.no_grad()
def test_together_they_are_the_forward(model: str) -> None:
    schema = make_schema()
    whole = make_model(schema, **MODELS[model]).eval()
    batch = make_batch(make_rows(6, seed=2), schema)
    halves, looked_up = Halves(whole.ranker), whole.tables(batch)
    rows = halves.rows(looked_up, batch)
    states, lengths = {}, {}
    for of in schema.sequences:
        events = batch.sequences[of.name]
        size = whole.ranker.body.group_size(of.name)
        groups = events.lengths.map(lambda n, size=size: (n + size - 1) // size)
        made = halves.event_states(of.name, rows, batch, events)
        kept = {part: Jagged(values, groups) for part, values in made.kept.items()}
        states[of.name] = kept | halves.encode(of.name, made, groups, torch.device("cpu"))
        lengths[of.name] = events.lengths
    got = halves.score(rows, batch, states, lengths, halves.pools(rows, batch))
    torch.testing.assert_close(got, whole(batch)[:, :2], rtol=1e-5, atol=1e-6)


def test_inputs_name_what_an_event_depends_on_beside_its_ids() -> None:
    whole = make_model()
    batch = make_batch(make_rows(4))
    halves = Halves(whole.ranker)
    events = batch.sequences["history"]
    # Position, bucket of the age, and two side values; searches have a position alone.
    assert halves.inputs("history", batch).shape == (events.lengths.total, 4)
    assert halves.inputs("searches", batch).shape == (batch.sequences["searches"].lengths.total, 1)
    assert halves.row_width("history") == 16
    assert halves.row_width("context") == 8
