"""Scores against states of users are those of the trainer's forward, however the states came about."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from dist_rec.serve.columns import event_columns, filled, serving_schema
from tests.data.requests import make_row, make_schema, make_table
from tests.serve.engines import MODELS, make_engine, trained

SCHEMA = serving_schema(make_schema())


def requests(count: int, seed: int = 0, longest: int = 12) -> pa.Table:
    rng = np.random.default_rng(seed)
    return make_table([make_row(rng, user, longest) for user in range(count)], SCHEMA)


def newer(table: pa.Table, cut: list[int]) -> tuple[pa.Table, pa.Table]:
    """The events of requests up to a place in each sequence, and those after it."""
    before: dict[str, Any] = {}
    after: dict[str, Any] = {}
    for name in event_columns(SCHEMA):
        rows = table.column(name).to_pylist()
        kind = table.schema.field(name).type
        before[name] = pa.array([row[:at] for row, at in zip(rows, cut, strict=True)], kind)
        after[name] = pa.array([row[at:] for row, at in zip(rows, cut, strict=True)], kind)
    old = filled({**before, "time": table.column("time")}, table.num_rows, SCHEMA)
    return old, pa.table(after)


@pytest.mark.parametrize("model", MODELS)
def test_scores_are_the_trainers(model: str) -> None:
    engine, whole = make_engine(model)
    table = requests(9)
    torch.testing.assert_close(engine.score_whole(table).logits, trained(whole, table), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_requests_without_candidates_have_no_scores(model: str) -> None:
    engine, _ = make_engine(model)
    table = requests(2)
    nothing = {name: [[]] * 2 for name in table.column_names if name.startswith("candidate.")}
    for name, rows in nothing.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, name, pa.array(rows, table.schema.field(name).type))
    assert engine.score_whole(table).logits.shape == (0, 2)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("most", [None, 5])
def test_appended_events_give_the_state_of_the_whole_history(model: str, most: int | None) -> None:
    engine, whole = make_engine(model, max_length=most)
    table = requests(7, seed=3)
    rng = np.random.default_rng(1)
    lengths = [max(len(table.column(name)[row]) for name in event_columns(SCHEMA)) for row in range(7)]
    for _ in range(3):
        first, second = sorted(rng.integers(0, max(lengths) + 1, 2).tolist())
        old, rest = newer(table, [first] * 7)
        middle, _ = newer(filled({c: rest.column(c) for c in rest.column_names}, 7, SCHEMA), [second - first] * 7)
        _, last = newer(table, [second] * 7)
        states = engine.encode(old)
        states = engine.append(states, middle.select(event_columns(SCHEMA)), [1000] * 7)
        states = engine.append(states, last, [1000] * 7)
        got = engine.score(states, table).logits
        torch.testing.assert_close(got, trained(whole, table, most), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("model", ["longer", "longer_rotary", "hyformer_each", "din"])
def test_states_follow_time(model: str) -> None:
    engine, whole = make_engine(model)
    table = requests(6, seed=5)
    states = engine.encode(table)
    for time in (1000, 1001, 1040, 5000, 10**6, 10**8):
        later = table.set_column(table.schema.get_field_index("time"), "time", pa.array([time] * 6))
        states = engine.at(states, [time] * 6)
        torch.testing.assert_close(engine.score(states, later).logits, trained(whole, later), rtol=1e-5, atol=1e-5)
