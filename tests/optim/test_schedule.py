import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.config import OptimConfig
from dist_rec.optim.schedule import lr_factor


def _factors(total: int, **changes: object) -> list[float]:
    factor = lr_factor(OptimConfig.model_validate(changes), total)
    return [factor(applied) for applied in range(total)]


def test_warm_up_is_linear_and_reaches_one() -> None:
    assert _factors(6, warmup_steps=4, decay="none") == [0.25, 0.5, 0.75, 1.0, 1.0, 1.0]


def test_linear_decay_ends_at_the_final_fraction() -> None:
    assert _factors(7, warmup_steps=2, decay="linear", final_lr_fraction=0.2) == pytest.approx(
        [0.5, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    )


def test_cosine_decay_is_half_way_in_the_middle() -> None:
    factors = _factors(5, warmup_steps=0, decay="cosine", final_lr_fraction=0.0)
    assert factors == pytest.approx([1.0, (1 + math.sqrt(0.5)) / 2, 0.5, (1 - math.sqrt(0.5)) / 2, 0.0])


@given(
    total=st.integers(1, 60),
    warmup=st.integers(0, 70),
    decay=st.sampled_from(("linear", "cosine")),
    final=st.floats(0.0, 1.0),
)
def test_rises_then_falls_and_stays_in_bounds(total: int, warmup: int, decay: str, final: float) -> None:
    factors = _factors(total, warmup_steps=warmup, decay=decay, final_lr_fraction=final)
    assert all(0.0 <= factor <= 1.0 + 1e-12 for factor in factors)
    rise, fall = factors[:warmup], factors[warmup:]
    assert all(before < after for before, after in itertools.pairwise(rise))
    assert all(before >= after - 1e-12 for before, after in itertools.pairwise(fall))
    assert len(fall) < 2 or fall[-1] == pytest.approx(final)


def test_more_updates_than_planned_keep_the_last_rate() -> None:
    factor = lr_factor(OptimConfig(decay="linear", final_lr_fraction=0.1), 10)
    assert factor(9) == factor(500) == pytest.approx(0.1)
