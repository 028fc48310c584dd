"""States follow events and time by computing what has changed, and nothing else."""

from typing import Any

import pyarrow as pa
import pytest
import torch

from dist_rec.models.protocol import EventStates
from dist_rec.serve.columns import event_columns, filled, serving_schema
from dist_rec.serve.engine import Engine
from tests.data.requests import make_schema
from tests.serve.engines import make_engine

SCHEMA = serving_schema(make_schema())
STILL = {"tokens": {"position": "none"}}  # what does not move with new events


def history(count: int, time: int = 1000) -> pa.Table:
    """One user whose events are long ago, at distances that are no bucket's end."""
    columns: dict[str, Any] = {
        "history.item": [list(range(count))],
        "history.kind": [[n % 5 for n in range(count)]],
        "history.action": [[n % 4 for n in range(count)]],
        "history.page": [[n % 300 for n in range(count)]],
        "history.time": [[n for n in range(count)]],
        "searches.query": [[n % 9 for n in range(count)]],
    }
    types = filled({}, 0, SCHEMA).schema
    arrays = {name: pa.array(values, types.field(name).type) for name, values in columns.items()}
    return filled(arrays | {"time": pa.array([time])}, 1, SCHEMA)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Events of the first sequence whose states are computed, call after call."""
    found: list[int] = []
    from dist_rec.models.halves import Halves

    real = Halves.event_states

    def counting(self: Halves, name: str, rows: Any, batch: Any, events: Any) -> EventStates:
        if name == "history":
            found.append(events.lengths.total)
        return real(self, name, rows, batch, events)

    monkeypatch.setattr(Halves, "event_states", counting)
    return found


def appended(engine: Engine, before: int, after: int) -> None:
    states = engine.encode(history(before))
    rest = history(after).select(event_columns(SCHEMA))
    new = {
        name: pa.array([rest.column(name).to_pylist()[0][before:]], rest.schema.field(name).type)
        for name in rest.column_names
    }
    engine.append(states, pa.table(new), [1000])


@pytest.mark.parametrize(
    ("model", "before", "after", "events"),
    [
        # k = 2 newest rows are read again, and two are new.
        (STILL | {"longer": {"merge": 1, "inner_trans": False, "k": 2}}, 10, 12, 2),
        (STILL | {"longer": {"merge": 1, "inner_trans": False, "k": 4}}, 10, 12, 4),
        # Whole groups came: the others stay.
        (STILL | {"longer": {"merge": 2, "k": 1}}, 10, 12, 2),
        # Groups are counted from the newest event, so they all are others.
        (STILL | {"longer": {"merge": 2, "k": 1}}, 10, 11, 11),
        # Rotated by their place from the oldest, which stays.
        (STILL | {"longer": {"merge": 1, "k": 2, "rotary": True}}, 10, 12, 2),
        # Positions counted from the newest event move with each.
        ({"longer": {"merge": 1, "inner_trans": False, "k": 2}}, 10, 12, 12),
        ({"name": "din"} | STILL, 10, 12, 2),
        ({"name": "din", "tokens": {"position": "absolute"}}, 10, 12, 2),
    ],
)
def test_what_is_computed_when_events_come(
    model: dict[str, Any], before: int, after: int, events: int, computed: list[int]
) -> None:
    engine, _ = make_engine(model)
    appended(engine, before, after)
    assert computed == [before, events]


def test_a_window_that_moves_keeps_what_stays_in_it(computed: list[int]) -> None:
    engine, _ = make_engine(STILL | {"longer": {"merge": 1, "inner_trans": False, "k": 2}}, max_length=10)
    appended(engine, 10, 13)
    assert computed == [10, 3]


def test_time_changes_the_groups_whose_ages_change(computed: list[int]) -> None:
    engine, _ = make_engine({"name": "din"} | STILL)
    states = engine.encode(history(10))
    assert engine.at(states, [states[0].until - 1])[0] is states[0]
    later = engine.at(states, [states[0].until])[0]
    assert computed[0] == 10 and 0 < computed[1] < 10
    assert later.as_of == states[0].until < later.until


def test_states_do_not_hold_the_memory_of_a_batch() -> None:
    engine, _ = make_engine()
    several = pa.concat_tables([history(10), history(12), history(3)])
    for state in engine.encode(several):
        for of in state.sequences.values():
            for name, tensor in of.tensors.items():
                assert tensor.untyped_storage().nbytes() == tensor.nbytes, name


def test_alone_and_together_are_the_same_to_the_bit_where_it_is_asked_for() -> None:
    engine, _ = make_engine(deterministic=True)
    several = pa.concat_tables([history(10), history(12), history(3)])
    together, alone = engine.encode(several), [engine.encode(several.slice(row, 1))[0] for row in range(3)]
    for one, other in zip(together, alone, strict=True):
        for name, of in one.sequences.items():
            assert all(torch.equal(tensor, other.sequences[name].tensors[part]) for part, tensor in of.tensors.items())


def test_a_state_of_another_version_is_refused() -> None:
    engine, _ = make_engine()
    other, _ = make_engine()
    other.version = "v2"
    with pytest.raises(ValueError, match="expected states of model v2, got one of v1"):
        other.score(engine.encode(history(4)), history(4))
