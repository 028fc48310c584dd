import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.numbers import NumberField, ascending, scaled
from dist_rec.data.sketch import Moments, NumberSketch

PARTS = st.lists(st.lists(st.floats(-1e6, 1e6, width=32) | st.just(float("nan")), max_size=12), max_size=6)


def _sketch(parts: list[list[float]], **options: object) -> NumberSketch:
    tree = {"scale": options.pop("scale", "linear"), "bins": options.pop("bins", 4)}
    sketch = NumberSketch(NumberField.model_validate(tree), **options)  # pyright: ignore[reportArgumentType]
    for part in parts:
        sketch.add(np.array(part, np.float32))
    return sketch


@settings(deadline=None)
@given(parts=PARTS, scale=st.sampled_from(["linear", "log"]))
def test_moments_are_those_of_numpy(parts: list[list[float]], scale: str) -> None:
    sketch = _sketch(parts, scale=scale)
    values = np.array([v for part in parts for v in part], np.float32)
    known = values[~np.isnan(values)].astype(np.float64)
    assert sketch.count == len(values) and sketch.missing == len(values) - len(known)
    fitted = sketch.fitted()
    assert ascending(fitted.bounds, scale) and len(fitted.bounds) <= 5
    if len(known):
        on_scale = scaled(known, scale)
        assert fitted.mean == pytest.approx(on_scale.mean(), rel=1e-9, abs=1e-9)
        assert sketch.scaled.std == pytest.approx(on_scale.std(), rel=1e-6, abs=1e-6)
        assert sketch.plain.mean == pytest.approx(known.mean(), rel=1e-9, abs=1e-9)
        assert fitted.missing == pytest.approx(1 - len(known) / len(values))
        assert fitted.bounds[0] == sketch.low == known.min() and sketch.high == known.max()
        assert set(fitted.bounds[1:-1]) <= set(known.tolist())


def test_small_spread_about_a_large_mean() -> None:
    moments = Moments()
    for part in np.split(1e9 + np.arange(1_000.0), [100, 101, 500]):
        moments.add(part)
    assert moments.std == pytest.approx(np.arange(1_000.0).std(), rel=1e-6)


def test_quantiles() -> None:
    sketch = _sketch([list(range(0, 101)), [float("nan")]], bins=10)
    assert sketch.fitted().bounds == pytest.approx([10 * n for n in range(11)], abs=1)


def test_values_that_occur_often_make_fewer_bins() -> None:
    assert _sketch([[0.0] * 90 + [1.0, 2.0, 3.0, 4.0, 5.0] * 2]).fitted().bounds == [0.0, 5.0]
    fitted = _sketch([[7.0] * 9]).fitted()
    assert fitted.bounds == [7.0, 14.0] and (fitted.mean, fitted.std) == (7.0, 1.0)
    large = _sketch([[3e9] * 9], scale="log").fitted()
    assert ascending(large.bounds, "log") and large.std == 1.0


def test_nothing_known() -> None:
    for parts in ([], [[]], [[float("nan")] * 3]):
        fitted = _sketch(parts).fitted()
        assert (fitted.mean, fitted.std, fitted.bounds) == (0.0, 1.0, [0.0, 1.0])
    assert _sketch([[float("nan")]]).fitted().missing == 1.0 and _sketch([]).fitted().missing == 0.0


def test_a_sample_of_many() -> None:
    """Uniform, and the same in any parts."""
    values = np.random.default_rng(0).permutation(20_000).astype(np.float32).tolist()
    whole, parts = _sketch([values], most=500), _sketch([values[:7], values[7:9_000], values[9_000:]], most=500)
    assert sorted(whole._sample) == sorted(parts._sample) and len(whole._sample) == 500
    expected = pytest.approx([0, 5_000, 10_000, 15_000, 19_999], abs=1_500)
    assert whole.fitted().bounds == parts.fitted().bounds == expected
    assert sorted(_sketch([values], most=500, seed=1)._sample) != sorted(whole._sample)
    assert len(_sketch([values], most=0)._sample) == 0
