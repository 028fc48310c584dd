from typing import Any

import pytest
from pydantic import ValidationError

from dist_rec.data.owners import CandidateSchema, RequestSchema, SequenceSchema

LABELS = ["click", "buy", "back"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"buy": "clck"}, "given buy: clck: 'clck' is no label; these are: click, buy, back"),
        ({"by": "click"}, "given by: click: 'by' is no label"),
        ({"buy": "buy"}, "given buy: buy: expected another label"),
        ({"buy": "click", "back": "buy"}, "'buy' is itself given 'click'"),
        ({"buy": "click", "click": "buy"}, "is itself given"),
    ],
)
def test_conditions_are_other_labels_that_are_always_defined(given: dict[str, str], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CandidateSchema.model_validate({"ids": ["item"], "labels": LABELS, "given": given})
    whole = CandidateSchema.model_validate({"ids": ["item"], "labels": LABELS, "given": {"buy": "click"}})
    assert whole.given == {"buy": "click"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": []}, "at least 1 item"),
        ({"labels": ["a", "a"]}, "labels: expected every name once, got 'a' 2 times"),
        ({"delayed": {"by": {}}}, "delayed.by: no such label; these are: click, buy, back"),
        ({"given": {"buy": "click"}, "delayed": {"click": {}}}, "a label that takes time can be no condition"),
    ],
)
def test_labels_declared_wrong(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CandidateSchema.model_validate({"ids": ["item"], "labels": LABELS} | changes)


def test_defaults_ask_for_no_column_but_the_ids() -> None:
    sequence = SequenceSchema.model_validate({"name": "history", "ids": ["item"]})
    assert not (sequence.side or sequence.time or sequence.score or sequence.reason)
    assert RequestSchema(grouping_key="user").time is None
