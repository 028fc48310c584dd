"""Options of the baselines."""

from pydantic import Field

from dist_rec.common.strict import Size
from dist_rec.models.options import ModelOptions


class DinConfig(ModelOptions):
    """DIN-style target attention: an activation unit weighs every event against the candidate, weights are not
    normalised."""

    hidden: Size = Field(default=32, ge=1, description="Hidden width of the activation unit.")


class SumPoolingConfig(ModelOptions):
    """The sum of the event tokens divided by their number: the baseline without attention."""
