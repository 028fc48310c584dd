import pytest

from dist_rec.data.id_field import IdField
from dist_rec.data.later import DelayedLabel, FeedbackSchema
from tests.data.later import FEEDBACK


@pytest.mark.parametrize(
    ("declared", "columns"),
    [(FEEDBACK, ["item", "kind", "dwell", "page", "time"]), ({"time": True}, ["time"]), ({"ids": ["kind"]}, ["kind"])],
)
def test_columns_in_the_order_of_a_file(declared: dict, columns: list[str]) -> None:
    assert FeedbackSchema.model_validate(declared).columns == columns


def test_one_event_of_a_candidate_is_read_by_default() -> None:
    feedback = FeedbackSchema.model_validate({"ids": ["item"]})
    assert feedback.ids == [IdField(name="item", table="item")]
    assert (feedback.most, feedback.read, feedback.side, feedback.time) == (1, True, {}, False)
    assert DelayedLabel().horizon is None


@pytest.mark.parametrize("wrong", [{}, {"most": 3}, {"time": False, "side": {}}])
def test_feedback_that_says_nothing(wrong: dict) -> None:
    with pytest.raises(ValueError, match="expected at least one of ids, side and time, got none"):
        FeedbackSchema.model_validate(wrong)
