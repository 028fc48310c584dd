"""States: causal in their direction, the same for the same seed, and better than chance at what comes next."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dist_rec.data.schema_file import load_schema
from dist_rec.probe.events import Events, read_events, with_candidates
from dist_rec.probe.states import NextEvent, StatesConfig, one_thread, states, train_states
from tests.probe.data import FAST, read


def _model(seed: int = 0) -> NextEvent:
    torch.manual_seed(seed)
    return NextEvent([80, 8], [4], FAST).eval()


@pytest.fixture(scope="module")
def events(data: Path) -> Events:
    return read_events(read(data), load_schema(data).sequences[0], backward=False)


@pytest.mark.parametrize("depth", [0, 1])
def test_a_state_depends_on_the_events_before_alone(events: Events, depth: int) -> None:
    model = _model()
    before = states(model, events, depth)
    request = int(np.argmax(events.lengths))
    at = int(events.starts[request] + events.lengths[request] // 2)
    changed = events.ids.copy()
    changed[at] = (changed[at] + 1) % 8
    differing = (states(model, replace(events, ids=changed), depth) - before).abs().sum(1) > 1e-6
    stop = int(events.starts[request] + events.lengths[request])
    assert differing[at] and not differing[:at].any() and not differing[stop:].any()
    assert differing[at + 1 : stop].any() == (depth > 0), "the tokens alone have no context"


def test_a_candidate_sees_its_events_and_no_other_candidate(data: Path, events: Events) -> None:
    table, schema = read(data), load_schema(data)
    both = with_candidates(events, table, schema, schema.sequences[0], backward=False)
    model = _model()
    found = states(model, both, 1)
    torch.testing.assert_close(found[torch.from_numpy(both.is_event)], states(model, events, 1))
    first = int(events.lengths[0])
    changed = both.ids.copy()
    changed[first] = (changed[first] + 1) % 8  # the first candidate of the first request
    differing = (states(model, replace(both, ids=changed), 1) - found).abs().sum(1) > 1e-6
    assert differing.nonzero().flatten().tolist() == [first]


def test_training_beats_chance_and_is_the_same_for_a_seed(events: Events) -> None:
    config = StatesConfig(width=16, layers=1, steps=150, batch_requests=16, negatives=32)
    state = torch.get_rng_state()
    model, again = (train_states(events, [80, 8], [4], config, seed=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state()), "the caller's random numbers are untouched"
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters()))
    assert not any(p.requires_grad for p in model.parameters())
    loss = float(model.loss(events, 32, torch.Generator().manual_seed(0)))
    untrained = float(_model().loss(events, 32, torch.Generator().manual_seed(0)).detach())
    assert loss < untrained - 0.3 and loss < np.log(33), f"{loss} after training, {untrained} before"


def test_without_a_next_event_there_is_no_loss(events: Events) -> None:
    single = events.take(np.flatnonzero(events.lengths > 0)[:5], 1)
    assert float(_model().loss(single, 8, torch.Generator()).detach()) == 0


def test_ids_of_a_large_table_share_rows() -> None:
    model = NextEvent([1000], [], StatesConfig(width=8, layers=1, rows=100))
    assert torch.equal(*(model.items(np.array([[i]])) for i in (7, 107)))


def test_one_thread_for_a_while() -> None:
    before = torch.get_num_threads()
    with one_thread():
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
