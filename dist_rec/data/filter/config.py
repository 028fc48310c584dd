"""The `data.filter` section of a recipe: which events are filtered, and how. No torch."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from dist_rec.common.strict import File, Size, Strict
from dist_rec.registry import FILTERS, Part

ActionName = Literal["keep", "mask", "hide", "keymask", "drop"]
ReasonName = Literal["privacy", "unlearn", "bot", "sensitive", "low_quality"]


class ReasonActions(Strict):
    """What is done with an event for each reason; of several the strongest: drop, keymask, hide, mask, keep."""

    privacy: ActionName = Field(default="hide", description="The user or the law wants it so.")
    unlearn: ActionName = Field(default="hide", description="What was learned from it is to go.")
    bot: ActionName = Field(default="hide", description="No person did it.")
    sensitive: ActionName = Field(default="hide", description="Of a kind that the model should know little about.")
    low_quality: ActionName = Field(default="mask", description="Right as context, wrong as a target.")


class ScoreRule(Strict):
    """Events whose column `score` is above a threshold."""

    above: float = Field(ge=0.0, le=1.0, description="Events with a higher score have the reason.")
    reason: ReasonName = Field(description="Which one.")


class FilterRule(Strict):
    """Events with certain values of a field, or old ones."""

    reason: ReasonName = Field(description="Of the events that the rule is for.")
    field: str | None = Field(
        default=None,
        description="A field of events, or one of their request: a context field or the grouping key, which filters "
        "all events of the request. context.<field> where both have the name.",
    )
    values: list[Annotated[int, Field(ge=-(2**63), lt=2**64)]] = Field(default=[], description="Of the field.")
    file: File | None = Field(
        default=None, description="In the place of values: a file of ids: text with one per line, .npy, or Parquet."
    )
    older_than_days: float | None = Field(
        default=None, gt=0.0, description="In the place of a field: events longer before their request than this."
    )
    of: list[str] = Field(
        default=[], description="Sequences, or `candidate`, that the rule is for; by default all that have the field."
    )

    @model_validator(mode="after")
    def _check(self) -> "FilterRule":
        if (self.field is None) == (self.older_than_days is None):
            raise ValueError("a rule takes either a field or older_than_days")
        if (self.field is None) != (not self.values and self.file is None):
            raise ValueError("values or a file go with a field, and a field needs one of them")
        if self.values and self.file is not None:
            raise ValueError("a rule takes either values or a file")
        return self


class FilterConfig(Strict):
    """Which events of histories, and which candidates, are not trained on or not even seen."""

    actions: ReasonActions = ReasonActions()
    score: ScoreRule | None = Field(default=None, description="Decides by the columns `score` of the data.")
    rules: list[FilterRule] = Field(default=[], description="Decide by fields; columns `reason` count without a rule.")
    policy: Annotated[Part, AfterValidator(FILTERS.known)] = Field(
        default=Part(name="rules"), description="rules: what stands here; or a FilterPolicy of one's own."
    )
    start_step: Size = Field(default=0, ge=0, description="Batches of a run that are not filtered yet.")
    evaluation: Literal["filtered", "as_is"] = Field(
        default="filtered",
        description="Histories in evaluation: filtered as in training, which is what a server that filters will see, "
        "or as they are. Candidates stay in either case, and metrics are also told apart by what the filter says of "
        "them.",
    )

    def hides(self, *, by_columns: bool) -> bool:
        """Whether HIDDEN may come up: a filtered candidate has it too where its rows are not to be read. `by_columns`:
        whether the data has reasons."""
        if self.policy.name != "rules":
            return True
        actions = self.actions.model_dump()
        told = {rule.reason for rule in self.rules} | ({self.score.reason} if self.score is not None else set())
        return any(actions[reason] in ("hide", "keymask") for reason in (actions if by_columns else told))
