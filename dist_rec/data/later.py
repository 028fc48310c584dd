"""What is known of a candidate only after it was served, as a schema declares it: feedback, and labels that take
time."""

from typing import ClassVar

from pydantic import Field, model_validator

from dist_rec.common.strict import Size, Strict
from dist_rec.data.id_field import IdField
from dist_rec.data.numbers import NumberField

FEEDBACK = "feedback"  # the owner of its events


class DelayedLabel(Strict):
    """A label that takes time. It is final, or mature, when its horizon has passed since the request; or where the data
    says so."""

    horizon: Size | None = Field(
        default=None,
        ge=1,
        description="Seconds from the request within which a 1 counts. Column candidate.<label>.delay: seconds from "
        "the request to the 1, any number where the label is 0. None: a column candidate.<label>.matured of 0/1 says "
        "whether the label is final.",
    )
    read: bool = Field(default=True, description="Set by evaluation where the data has no such column.")


class FeedbackSchema(Strict):
    """A short list of events of a candidate that happen after it was served, such as how long somebody stayed and what
    came next, oldest first. Never an event that the label is made of."""

    score: ClassVar[bool] = False  # as other events may have them, for a filter
    reason: ClassVar[bool] = False
    numbers: ClassVar[dict[str, NumberField]] = {}  # as other events may have them

    ids: list[IdField] = Field(default=[], description="Looked up in tables, with those of all other events.")
    side: dict[str, int] = Field(default={}, description="Small values of the event: name -> number of values.")
    time: bool = Field(default=False, description="Whether each event has a time in seconds, not before the request.")
    most: Size = Field(default=1, ge=1, description="Events of a candidate that are read: the first ones.")
    window: Size | None = Field(
        default=None,
        ge=0,
        description="Seconds after the request within which events count. Feedback of a candidate is known when they "
        "have passed; needed with data.observed_at, or fresh candidates would look as if less had happened to them.",
    )
    read: bool = Field(default=True, description="Set by evaluation, which never reads feedback.")

    @property
    def columns(self) -> list[str]:
        """Names of the columns without their owner."""
        return [*(field.name for field in self.ids), *self.side, *(["time"] if self.time else [])]

    @model_validator(mode="after")
    def _check(self) -> "FeedbackSchema":
        if not self.columns:
            raise ValueError("feedback: expected at least one of ids, side and time, got none")
        return self
