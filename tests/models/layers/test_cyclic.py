import math

import pytest
import torch

from dist_rec.models.layers.cyclic import CYCLIC_COLUMNS, DAY, WEEK, cyclic_columns, week_before


def test_angles_of_day_and_week() -> None:
    seconds = [0, 1, 43_200, 86_399, 86_400, 302_400, WEEK - 1]
    found = cyclic_columns(torch.tensor(seconds, dtype=torch.int32))
    assert found.shape == (len(seconds), CYCLIC_COLUMNS) and found.dtype == torch.float32
    for row, second in zip(found.tolist(), seconds, strict=True):
        angles = [2 * math.pi * second / period for period in (DAY, WEEK)]
        assert row == pytest.approx([f(angle) for angle in angles for f in (math.sin, math.cos)], abs=2e-6)


def test_the_end_of_the_week_is_beside_its_beginning() -> None:
    first, last = cyclic_columns(torch.tensor([0, WEEK - 1]))
    assert (first - last).abs().max() < 1e-4


def test_seconds_before() -> None:
    ages = [0, 5, DAY, WEEK, 10 * WEEK + 7, 2**31 - 1]
    found = week_before(torch.full((len(ages),), 3, dtype=torch.int32), torch.tensor(ages, dtype=torch.int32))
    assert found.tolist() == [(3 - age) % WEEK for age in ages] and found.dtype == torch.int32
