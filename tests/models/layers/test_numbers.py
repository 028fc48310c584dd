"""Encodings against numpy in float64, number by number."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.batch import JaggedEvents, RequestValues
from dist_rec.data.lengths import Lengths
from dist_rec.data.numbers import NumberField, ascending
from dist_rec.models.layers.cyclic import cyclic_columns
from dist_rec.models.layers.numbers import EventColumns, NumberColumns, NumberTerm, small_linear
from tests.data.kind_rows import FITTED, NUMBERS

VALUES = [-30.0, -3.0, -1.0, 0.0, 0.25, 0.5, 1.0, 2.0, 5.0, 9.0, 20.0, 1e9, float("nan")]


def _field(**tree: Any) -> NumberField:
    return NumberField.model_validate(tree)


def by_hand(field: NumberField, values: list[float]) -> np.ndarray:
    """(N, K) float64."""
    rows = []
    for value in np.array(values, np.float64):
        missing = bool(np.isnan(value))
        x = np.sign(value) * np.log1p(abs(value)) if field.scale == "log" else value
        if field.encoding == "value":
            assert field.fitted is not None
            row = [(x - field.fitted.mean) / field.fitted.std]
        else:
            ends = field.knots.astype(np.float64)
            row = []
            for t in range(1, len(ends)):
                low = -1.0 if t == 1 else 0.0
                high = 2.0 if t == len(ends) - 1 else 1.0
                row.append(min(max((x - ends[t - 1]) / (ends[t] - ends[t - 1]), low), high))
        rows.append([0.0] * len(row) + [1.0] if missing else [*row, 0.0])
    return np.array(rows, np.float64).reshape(len(values), field.num_columns)


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("tree", [{"encoding": "value", "fitted": FITTED}, {"fitted": FITTED}, {"bounds": [0.0, 1.0]}])
def test_columns(tree: dict[str, Any], scale: str) -> None:
    field = _field(**tree, scale=scale)
    found = NumberColumns(field).double()(torch.tensor(VALUES, dtype=torch.float64))
    np.testing.assert_allclose(found.numpy(), by_hand(field, VALUES), rtol=1e-6, atol=1e-6)


@settings(max_examples=50, deadline=None)
@given(
    bounds=st.lists(st.floats(-1e4, 1e4, width=32), min_size=2, max_size=6, unique=True).map(sorted),
    values=st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), max_size=9),
    scale=st.sampled_from(["linear", "log"]),
)
def test_piecewise_columns_of_any_bounds(bounds: list[float], values: list[float], scale: str) -> None:
    if not ascending(bounds, scale):
        return
    field = _field(bounds=bounds, scale=scale)
    found = NumberColumns(field).double()(torch.tensor(values, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, by_hand(field, values), rtol=1e-5, atol=1e-5)
    assert (np.abs(found) <= 2).all(), "no outlier is larger"
    single = NumberColumns(field)(torch.tensor(values, dtype=torch.float32))
    assert single.isfinite().all() and single.dtype == torch.float32


def test_a_piecewise_column_rises_with_the_number() -> None:
    values = torch.linspace(-10, 20, 200)
    total = NumberColumns(_field(fitted=FITTED))(values).sum(1)
    assert (total.diff() >= 0).all() and len(total.unique()) > 100


@pytest.mark.parametrize("tree", list(NUMBERS.values())[:2], ids=list(NUMBERS)[:2])
def test_a_term_and_its_gradients(tree: dict[str, Any]) -> None:
    field = _field(**tree)
    term = NumberTerm(field, 3).double()
    out = term(torch.tensor(VALUES))
    columns = torch.from_numpy(by_hand(field, [float(np.float32(v)) for v in VALUES]))
    weights = torch.randn_like(out)
    torch.testing.assert_close(out, columns @ term.weight.weight.T, rtol=0, atol=1e-5)
    (gradient,) = torch.autograd.grad((out * weights).sum(), [term.weight.weight])
    torch.testing.assert_close(gradient, weights.T @ columns, rtol=1e-6, atol=1e-5)
    assert torch.equal(out[-1], term.weight.weight[:, -1]), "missing has a row of its own"


def test_all_missing_and_none_at_all() -> None:
    for field in (_field(fitted=FITTED), _field(encoding="value", fitted=FITTED)):
        term = NumberTerm(field, 3)
        out = term(torch.full((4,), float("nan")))
        assert torch.equal(out, term.weight.weight[:, -1].expand(4, 3))
        nothing = term(torch.zeros(0))
        nothing.sum().backward()
        assert nothing.shape == (0, 3) and term.weight.weight.grad is not None and not term.weight.weight.grad.any()


def test_it_learns_and_saves_nothing_but_weights() -> None:
    term = NumberTerm(_field(fitted=FITTED), 3)
    assert list(term.state_dict()) == ["weight.weight"]
    columns = EventColumns({"price": _field(fitted=FITTED)}, cyclic=True)
    assert not columns.state_dict() and not list(columns.parameters())


def test_columns_of_events_are_side_by_side() -> None:
    fields = {"price": _field(fitted=FITTED), "stay": _field(encoding="value", fitted=FITTED)}
    columns = EventColumns(fields, cyclic=True)
    numbers = {"price": torch.tensor([1.0, float("nan"), 3.0]), "stay": torch.tensor([0.0, 1.0, 2.0])}
    lengths, age = Lengths.of([1, 0, 2]), torch.tensor([5, 90_000, 0], dtype=torch.int32)
    events = JaggedEvents(lengths, torch.zeros(3, dtype=torch.int32), {}, age, numbers=numbers)
    request = RequestValues({}, {}, torch.tensor([7, 8, 9], dtype=torch.int32))
    found = columns(events, request)
    assert columns.num_columns == 5 + 2 + 4 == found.shape[1]
    assert torch.equal(found[:, :5], NumberColumns(fields["price"])(numbers["price"]))
    assert torch.equal(found[:, 5:7], NumberColumns(fields["stay"])(numbers["stay"]))
    seconds = torch.tensor([(second - before) % 604_800 for second, before in ((7, 5), (9, 90_000), (9, 0))])
    assert torch.equal(found[:, 7:], cyclic_columns(seconds))


def test_what_starts_small_does_so_with_any_number_of_columns() -> None:
    torch.manual_seed(0)
    for columns in (4, 1024):
        out = small_linear(columns, 500)(torch.ones(1, columns))
        assert 0.08 < float(out.detach().std()) < 0.12
