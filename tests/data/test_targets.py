"""Labels at a moment of training, against a slow reference that looks at one candidate after the other."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.targets import Labels, Targets, read_labels
from tests.data.later import ACTIONS, HORIZON, LABELS, Row, later_rows, later_schema, left_of, reading_of

NAN = float("nan")


def _expected(of: Row, label: str, now: float) -> dict[str, float]:
    """What `Labels` says of one label of one candidate; `waited` only where the request was before now."""
    elapsed = now - of["now"]
    final = observed = float(of[label])
    defined, mature, waited = True, True, 0.0
    if label == "buy":
        defined = of["click"] == 1
    if label == "back":
        mature = of["back.matured"] == 1
        observed = final if mature else NAN
    if label == "convert":
        mature = elapsed >= HORIZON
        came = of[label] == 1 and of["convert.delay"] <= elapsed
        observed, waited = float(came), min(of["convert.delay"] if came else elapsed, HORIZON) / HORIZON
    served = elapsed >= 0
    return {
        "final": final if defined and mature and served else NAN,
        "observed": observed if defined and served else NAN,
        "waited": waited if served else NAN,
        "defined": defined,
        "mature": mature,
        "served": served,
    }


def _read(rows: list[Row], now: int | None, action: str | None = None, corrected: bool = True) -> Labels:
    return read_labels(reading_of(rows, later_schema(hidden=True), action), Targets(now, corrected))


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 6),
    after=st.none() | st.sampled_from([-1, 0, 1, HORIZON - 1, HORIZON, HORIZON + 1]) | st.integers(-300, 500),
    action=st.sampled_from(ACTIONS),
)
def test_label_by_label(seed: int, count: int, after: int | None, action: str | None) -> None:
    """The moment is so many seconds after the first request."""
    rows = later_rows(count, seed)
    now = None if after is None else after + (rows[0]["time"] if rows else 1_000)
    labels = _read(rows, now, action)
    every = [of for candidates in left_of(rows, action) for of in candidates]
    expected = [[_expected(of, label, math.inf if now is None else now) for label in LABELS] for of in every]

    def of(name: str) -> np.ndarray:
        return np.array([[label[name] for label in labels] for labels in expected]).reshape(-1, len(LABELS))

    np.testing.assert_array_equal(labels.final, of("final").astype(np.float32))
    np.testing.assert_array_equal(labels.more["observed"], of("observed").astype(np.float32))
    waited = np.where(labels.served[:, None], labels.more["waited"], NAN)
    np.testing.assert_array_equal(waited.astype(np.float32), of("waited").astype(np.float32))
    assert labels.defined.tolist() == of("defined").tolist() and labels.mature.tolist() == of("mature").tolist()
    assert labels.served.tolist() == of("served")[:, 0].tolist()
    assert {labels.final.dtype, *(values.dtype for values in labels.more.values())} == {np.dtype(np.float32)}


def test_without_a_correction_nothing_more_is_said() -> None:
    rows = later_rows(9)
    plain, corrected = (_read(rows, 1_100, corrected=of) for of in (False, True))
    assert not plain.more and set(corrected.more) == {"observed", "waited"}
    np.testing.assert_array_equal(plain.final, corrected.final)


def _one(**values: Any) -> Row:
    """A request at 1000 with one candidate, which converts after 60 seconds."""
    row = next(row for row in later_rows(50) if len(row["candidate.item"]) == 1)
    none = {name: [] for name in row if name.startswith("feedback.")} | {"candidate.feedback_events": [0]}
    return row | none | {"time": 1_000, "candidate.convert": [1], "candidate.convert.delay": [60]} | values


@pytest.mark.parametrize(
    ("now", "final", "observed", "waited"),
    [
        (999, NAN, NAN, None),
        (1_000, NAN, 0.0, 0.0),
        (1_059, NAN, 0.0, 0.59),
        (1_060, NAN, 1.0, 0.6),
        (1_099, NAN, 1.0, 0.6),
        (1_100, 1.0, 1.0, 0.6),
        (None, 1.0, 1.0, 0.6),
    ],
)
def test_a_conversion_by_hand(now: int | None, final: float, observed: float, waited: float | None) -> None:
    labels, place = _read([_one()], now), LABELS.index("convert")
    assert labels.final[0, place] == pytest.approx(final, nan_ok=True)
    assert labels.more["observed"][0, place] == pytest.approx(observed, nan_ok=True)
    assert waited is None or labels.more["waited"][0, place] == pytest.approx(waited)


@pytest.mark.parametrize("delay", [-5, 0, 2**40])
def test_where_the_label_is_0_its_delay_means_nothing(delay: int) -> None:
    row = _one(**{"candidate.convert": [0], "candidate.convert.delay": [delay]})
    for now, waited in ((1_030, 0.3), (1_100, 1.0), (5_000, 1.0), (None, 1.0)):
        labels, place = _read([row], now), LABELS.index("convert")
        assert labels.more["observed"][0, place] == 0 and labels.more["waited"][0, place] == pytest.approx(waited)


def test_a_label_that_the_data_calls_open_is_read_by_no_correction() -> None:
    rows = [_one(**{"candidate.back": [1], "candidate.back.matured": [matured]}) for matured in (0, 1)]
    labels, place = _read(rows, 5_000), LABELS.index("back")
    for values in (labels.final, labels.more["observed"]):
        np.testing.assert_array_equal(values[:, place], [NAN, 1.0])


def test_labels_that_are_not_read_are_known_of_nobody() -> None:
    """Their columns need not be there; and a correction has nothing to read."""
    schema = later_schema(hidden=True).without_labels()
    rows = later_rows(5, seed=1)
    labels = read_labels(reading_of(rows, schema), Targets(corrected=True))
    candidates = sum(len(row["candidate.item"]) for row in rows)
    assert labels.final.shape == labels.mature.shape == (candidates, len(LABELS))
    assert np.isnan(labels.final).all() and not labels.defined.any() and not labels.mature.any() and not labels.more
    assert labels.served.all()
