"""What `distill`, `data.observed_at` and `model.head.immature` need of a schema, each with its sentence."""

from typing import Any

import pytest

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.distill.check import check_copy, check_later
from tests.data.feedback_rows import feedback_schema
from tests.data.requests import make_schema

NOW = {"observed_at": 1000}
CORRECTED = {"head": {"immature": "delayed_feedback_model"}}
UNTIMED = {"delayed": {"buy": {}}}  # a column says what is final


def _config(data: dict[str, Any] | None = None, **sections: Any) -> Config:
    return Config.model_validate({"data": {"path": "nowhere", **(data or {})}, **sections})


def _plain() -> Schema:
    """Neither feedback nor labels that take time."""
    return make_schema()


@pytest.mark.parametrize(
    ("schema", "config"),
    [
        (_plain(), _config()),
        (_plain(), _config(NOW)),
        (_plain(), _config(distill={"weight": 0.0, "teacher_weight": 0.0, "tasks": {"bye": 1.0}})),  # no teacher
        (feedback_schema(), _config()),
        (feedback_schema(), _config(NOW, distill={"rows": "immature", "tasks": {"buy": 1.0}, "allow_leak": ["buy"]})),
        (feedback_schema(), _config(NOW, model=CORRECTED, distill={})),
        (feedback_schema(**UNTIMED), _config(distill={"rows": "immature"})),
        (feedback_schema(delayed={}), _config(distill={})),
    ],
)
def test_what_fits(schema: Schema, config: Config) -> None:
    check_later(config, schema)


@pytest.mark.parametrize(
    ("schema", "config", "message"),
    [
        (
            make_schema(request={"grouping_key": "user"}, sequences=[{"name": "searches", "ids": ["query"]}]),
            _config(NOW),
            "data.observed_at=1000: needs request.time in the schema, the time of every request",
        ),
        (
            feedback_schema(),
            _config(model=CORRECTED),
            "model.head.immature=delayed_feedback_model: needs data.observed_at and labels with a horizon "
            "(candidate.delayed in the schema), got data.observed_at=None and buy",
        ),
        (
            feedback_schema(**UNTIMED),
            _config(NOW, model={"head": {"immature": "fake_negative_weighting"}}),
            "model.head.immature=fake_negative_weighting: needs data.observed_at and labels with a horizon "
            "(candidate.delayed in the schema), got data.observed_at=1000 and no such label",
        ),
        (
            feedback_schema(),
            _config(NOW, model={"head": {"immature": "delayed_feedback_model", "loss": "json:JSONDecoder"}}),
            "model.head.immature=delayed_feedback_model is a loss of its own: expected model.head.loss: "
            "binary_cross_entropy, got json:JSONDecoder",
        ),
        (
            _plain(),
            _config(distill={}),
            "distill: the schema declares no feedback, so a teacher would know nothing more; expected "
            "candidate.feedback in schema.yaml, or no distill",
        ),
        (
            feedback_schema(),
            _config(distill={"tasks": {"buy": 1.0, "bye": 1.0}}),
            "distill.tasks: no such task as bye; the schema's are: click, buy",
        ),
        (
            feedback_schema(),
            _config(distill={"allow_leak": ["bye"]}),
            "distill.allow_leak: no such task as bye; the schema's are: click, buy",
        ),
        (
            feedback_schema(feedback={"ids": ["item"]}),
            _config(NOW, distill={}),
            "distill: training is at 1000, and the schema does not say after how long feedback is known; expected "
            "candidate.feedback.window in seconds, or candidates that were just served look as if nothing happened",
        ),
        (
            feedback_schema(delayed={}),
            _config(distill={"rows": "immature"}),
            "distill.rows=immature: the schema has no label that takes time, so none would be taught; expected "
            "candidate.delayed in schema.yaml, or rows: all",
        ),
    ],
)
def test_what_does_not_fit(schema: Schema, config: Config, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_later(config, schema)
    assert str(caught.value) == message


def test_a_copy_is_taken_while_the_run_goes_on() -> None:
    config = _config(distill={"teacher": "frozen", "frozen_at": 5})
    check_copy(config, 6)
    with pytest.raises(ConfigError, match=r"distill\.frozen_at=5: the run has 5 dense updates, so that nothing would"):
        check_copy(config, 5)
    check_copy(_config(distill={"teacher": "ema", "frozen_at": 5}), 5)
