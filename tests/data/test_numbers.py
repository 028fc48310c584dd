from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.strict import ConfigError, check
from dist_rec.data.numbers import NumberField, as_buckets, as_sent, ascending, scaled
from tests.data.kind_rows import FITTED

BOUNDS = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=9, unique=True).map(sorted)
VALUES = st.lists(st.floats(allow_nan=True, allow_infinity=False, width=32), max_size=20)


def _field(**tree: Any) -> NumberField:
    return NumberField.model_validate(tree)


@given(bounds=BOUNDS, values=VALUES, scale=st.sampled_from(["linear", "log"]))
def test_buckets_are_those_of_digitize(bounds: list[float], values: list[float], scale: str) -> None:
    if not ascending(bounds, scale):
        return
    field, given = _field(encoding="buckets", bounds=bounds, scale=scale), np.array(values, np.float32)
    expected = np.where(np.isnan(given), len(bounds) + 1, np.digitize(given, np.array(bounds, np.float32)))
    assert field.buckets_of(given).tolist() == expected.tolist()
    assert field.num_buckets == len(bounds) + 2 and (expected < field.num_buckets).all()


def test_ends_of_quantiles_are_no_borders() -> None:
    field = _field(encoding="buckets", fitted=FITTED)
    values = np.array([-9, -3, 0, 0.4, 0.5, 2, 9, 99, np.nan])
    assert field.buckets_of(values).tolist() == [0, 0, 1, 1, 2, 3, 3, 3, 4] and field.num_buckets == 5


def test_what_each_encoding_is_sent_as() -> None:
    fields = {
        "value": _field(encoding="value", fitted=FITTED),
        "buckets": _field(encoding="buckets", bounds=[1.0]),
        "piecewise": _field(bounds=[1.0, 2.0, 4.0]),
        "unfitted": _field(encoding="buckets"),
    }
    assert list(as_sent(fields)) == ["value", "piecewise", "unfitted"] and as_buckets(fields) == {"buckets": 3}
    assert fields["value"].num_columns == 2 and fields["piecewise"].num_columns == 2 + 1
    assert [of.is_fitted for of in fields.values()] == [True, True, True, False]
    assert not _field(encoding="value", bounds=[1.0]).is_fitted, "it needs a mean"


def test_knots_are_scaled() -> None:
    assert _field(bounds=[0.0, 9.0], scale="log").knots == pytest.approx(np.log1p([0.0, 9.0]))
    assert scaled(np.array([-9.0, 9.0]), "log") == pytest.approx([-np.log1p(9), np.log1p(9)])
    assert _field(fitted=FITTED).knots.tolist() == FITTED["bounds"]


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"bounds": [1.0, 1.0]}, "bounds: expected numbers that rise"),
        ({"bounds": [2.0, 1.0], "encoding": "buckets"}, "bounds: expected numbers that rise"),
        ({"bounds": [1.0, 1.0 + 1e-12], "encoding": "buckets"}, "in float32"),
        ({"bounds": [1e30, 1.0000001e30], "scale": "log"}, "on the scale"),
        ({"bounds": [1.0, 1e300]}, "in float32"),
        ({"bounds": [1.0]}, "piecewise needs two or more"),
        ({"bounds": []}, "at least 1 item"),
        ({"encoding": "onehot"}, "'value', 'buckets' or 'piecewise'"),
        ({"fitted": {**FITTED, "std": 0.0}}, "fitted.std"),
        ({"fitted": {**FITTED, "bounds": [2.0, 1.0]}}, "fitted.bounds: expected numbers that rise"),
        ({"bins": 1}, "bins"),
        ({"as": "value"}, "as: unknown key"),
    ],
)
def test_what_cannot_be_a_number(tree: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check(NumberField, tree, "here")
