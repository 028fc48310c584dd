"""The `distill` section of a recipe: its ranges, what contradicts itself, and when there is a teacher at all."""

from typing import Any

import pytest
from pydantic import ValidationError

from dist_rec.distill.config import DistillConfig


@pytest.mark.parametrize(
    ("section", "is_on"),
    [
        ({}, True),
        ({"weight": 0.0}, True),  # the teacher learns, and is in the log
        ({"weight": 0.0, "teacher_weight": 0.0}, False),
        ({"weight": 0.5, "teacher_weight": 0.25, "rows": "immature", "tasks": {"buy": 0.0}}, True),
    ],
)
def test_when_there_is_a_teacher(section: dict[str, Any], is_on: bool) -> None:
    assert DistillConfig.model_validate(section).is_on == is_on


def test_what_is_taught_by_default_keeps_probabilities_calibrated() -> None:
    config = DistillConfig()
    assert (config.div_mix, config.rows, config.teacher, config.tasks) == (0.0, "all", "live", {})


@pytest.mark.parametrize(
    ("section", "place", "message"),
    [
        (
            {"weight": 0.5, "teacher_weight": 0.0},
            (),
            "weight=0.5 needs teacher_weight above 0: a teacher without a loss of its own never learns to read "
            "feedback, and teaches what the model says anyway",
        ),
        ({"weight": -1.0}, ("weight",), "greater than or equal to 0"),
        ({"weight": float("inf")}, ("weight",), "finite"),
        ({"teacher_weight": -0.1}, ("teacher_weight",), "greater than or equal to 0"),
        ({"warmup_updates": -1}, ("warmup_updates",), "greater than or equal to 0"),
        ({"teacher": "best"}, ("teacher",), "'live', 'frozen', 'ema' or 'trust_region'"),
        ({"teacher_rate": 0.0}, ("teacher_rate",), "greater than 0"),
        ({"teacher_rate": 1.5}, ("teacher_rate",), "less than or equal to 1"),
        ({"frozen_at": -1}, ("frozen_at",), "greater than or equal to 0"),
        ({"teacher": "frozen"}, (), "teacher=frozen needs frozen_at"),
        ({"teacher": "trust_region"}, (), "teacher=trust_region needs frozen_at"),
        ({"div_mix": -0.1}, ("div_mix",), "greater than or equal to 0"),
        ({"div_mix": 1.1}, ("div_mix",), "less than or equal to 1"),
        ({"rows": "final"}, ("rows",), "'all', 'labelled' or 'immature'"),
        ({"tasks": {"buy": -1.0}}, ("tasks", "buy"), "greater than or equal to 0"),
        ({"wieght": 1.0}, ("wieght",), "Extra inputs are not permitted"),
    ],
)
def test_what_is_refused(section: dict[str, Any], place: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        DistillConfig.model_validate(section)
    (error,) = caught.value.errors()
    assert error["loc"] == place
