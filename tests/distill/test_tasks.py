"""Which tasks a teacher teaches, and with which weights."""

import pytest

from dist_rec.config import Config
from dist_rec.data.later import DelayedLabel
from dist_rec.distill.tasks import taught_tasks
from tests.data.requests import make_schema


@pytest.mark.parametrize(
    ("named", "delayed", "taught"),
    [
        ({}, [], {"click": 1.0, "buy": 1.0}),
        ({}, ["buy"], {"buy": 1.0}),
        ({"click": 0.5}, ["buy"], {"click": 0.5}),
    ],
)
def test_those_that_are_named_or_take_time_or_all(
    named: dict[str, float], delayed: list[str], taught: dict[str, float]
) -> None:
    schema = make_schema()
    takes_time = {task: DelayedLabel(horizon=60) for task in delayed}
    schema = schema.model_copy(update={"candidate": schema.candidate.model_copy(update={"delayed": takes_time})})
    data = {"path": "nowhere"}
    assert taught_tasks(Config.model_validate({"data": data, "distill": {"tasks": named}}), schema) == taught
    if not named:
        assert taught_tasks(Config.model_validate({"data": data}), schema) == taught
