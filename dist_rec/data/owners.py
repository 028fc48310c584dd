"""What a schema declares of a request, of a sequence and of candidates."""

from pydantic import Field, model_validator

from dist_rec.common.strict import Strict, check_distinct
from dist_rec.data.id_field import IdField
from dist_rec.data.id_lists import ListField
from dist_rec.data.later import DelayedLabel, FeedbackSchema
from dist_rec.data.numbers import NumberField

SCORE = Field(default=False, description="Whether each event has a score from 0 to 1: how much a filter should act.")
LISTS = Field(default={}, description="Lists of ids by name, such as tags; see `ListField`.")
NUMBERS = Field(default={}, description="Numbers by name, such as a price; see `NumberField`.")
REASON = Field(default=False, description="Whether each event has reasons to filter it: the bits of `Reason`, 0 none.")


class RequestSchema(Strict):
    grouping_key: str = Field(description="Column whose value groups candidates for grouped AUC, usually the user.")
    time: str | None = Field(
        default=None, description="Column with the request time in seconds; None if only the order is known."
    )
    numbers: dict[str, NumberField] = NUMBERS
    lists: dict[str, ListField] = LISTS
    cyclic: bool = Field(
        default=False,
        description="Whether the time of day and of the week of the request, and of every event with a time, are "
        "features. They follow from the times and cost no bytes per event.",
    )
    utc_offset: float = Field(
        default=0.0, ge=-24.0, le=24.0, description="With cyclic: hours that local time is ahead of UTC."
    )

    @model_validator(mode="after")
    def _check(self) -> "RequestSchema":
        if self.cyclic and self.time is None:
            raise ValueError("cyclic: expected time, the column with the request's time, got none")
        return self


class SequenceSchema(Strict):
    name: str
    ids: list[IdField] = Field(min_length=1, description="Looked up in tables; together they make the event's token.")
    side: dict[str, int] = Field(default={}, description="Small values of the event: name -> number of values.")
    numbers: dict[str, NumberField] = NUMBERS
    time: bool = Field(default=False, description="Whether each event has a time in seconds.")
    once: bool = Field(
        default=False,
        description="Whether the events are stored once for each user, in sequences/<name>/, so that a request has its "
        "user and how many of the oldest events it knows: data/event_store.py.",
    )
    score: bool = SCORE
    reason: bool = REASON

    @model_validator(mode="after")
    def _check(self) -> "SequenceSchema":
        if self.once and (self.score or self.reason):
            raise ValueError(
                f"{self.name}: events that are stored once have no score and no reason; expected once: false"
            )
        return self


class CandidateSchema(Strict):
    ids: list[IdField] = Field(min_length=1)
    side: dict[str, int] = {}
    numbers: dict[str, NumberField] = NUMBERS
    lists: dict[str, ListField] = LISTS
    labels: list[str] = Field(min_length=1, description="One 0/1 label per task.")
    labels_read: bool = Field(
        default=True, exclude=True, description="Set where requests are predicted for, which have no labels yet."
    )
    given: dict[str, str] = Field(
        default={},
        description="task -> task: a label that is defined only where another is 1, such as conversion given click.",
    )
    visible_events: bool = Field(
        default=False,
        description="Candidates see only the first `candidate.visible_events` events of the (single) sequence.",
    )
    oracle: bool = Field(default=False, description="Whether the true probability of each label is stored beside it.")
    score: bool = SCORE
    reason: bool = REASON
    delayed: dict[str, DelayedLabel] = Field(
        default={}, description="label -> how it becomes final: labels that take time, such as a conversion."
    )
    feedback: FeedbackSchema | None = Field(
        default=None,
        description="What happens to a candidate after it was served; only a teacher in training reads it.",
    )

    @model_validator(mode="after")
    def _check(self) -> "CandidateSchema":
        check_distinct("labels", self.labels, "a label is one task")
        for task in self.delayed:
            if task not in self.labels:
                raise ValueError(f"delayed.{task}: no such label; these are: {', '.join(self.labels)}")
            if task in self.given.values():
                raise ValueError(f"delayed.{task}: a label that takes time can be no condition of another")
        for task, condition in self.given.items():
            for name in (task, condition):
                if name not in self.labels:
                    labels = ", ".join(self.labels)
                    raise ValueError(f"given {task}: {condition}: '{name}' is no label; these are: {labels}")
            if task == condition:
                raise ValueError(f"given {task}: {condition}: expected another label as the condition")
            if condition in self.given:
                raise ValueError(
                    f"given {task}: {condition}: expected a condition that is always defined, but '{condition}' is "
                    f"itself given '{self.given[condition]}'"
                )
        return self
