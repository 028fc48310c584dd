"""Positions in the data that go on with other batches."""

import pytest
from pydantic import ValidationError

from dist_rec.data.position import DataPosition, Leg

HERE = DataPosition(step=12, ranks=2, workers=3, settings={"batch_size": 4, "batch_events": None, "seed": 1})


def test_the_same_batches_are_the_same_position() -> None:
    assert HERE.with_batches(4, None) is HERE


def test_other_batches_begin_a_leg() -> None:
    there = HERE.with_batches(8, None)
    assert there.legs == (Leg(batch_size=4, batch_events=None, end=12),)
    assert there.settings == {"batch_size": 8, "batch_events": None, "seed": 1}
    later = there.model_copy(update={"step": 20}).with_batches(None, 99)
    assert [(leg.batch_size, leg.end) for leg in later.legs] == [(4, 12), (8, 20)]


def test_travels_as_json() -> None:
    there = HERE.with_batches(8, None)
    assert DataPosition.model_validate_json(there.model_dump_json()) == there


@pytest.mark.parametrize("wrong", [{"step": -1}, {"ranks": 0}, {"workers": 0}])
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValidationError):
        DataPosition.model_validate(HERE.model_dump() | wrong)
