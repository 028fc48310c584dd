"""The `distill` section of a recipe: a teacher that has seen what came later, of the same weights. No torch."""

from typing import Annotated

from pydantic import Field, model_validator

from dist_rec.common.choices import DistilledRows, TeacherKind
from dist_rec.common.strict import Size, Strict


class DistillConfig(Strict):
    """Self-distillation (SDPO, arXiv 2601.20802) for delayed feedback: twins of candidates see the feedback, and what
    they predict is taught to the candidates, which see what a server sees."""

    weight: float = Field(
        default=1.0,
        ge=0.0,
        description="Of the divergence between teacher and model; with 1 a candidate that is taught counts like one "
        "with a label.",
    )
    teacher_weight: float = Field(
        default=1.0,
        ge=0.0,
        description="Of the teacher's own loss, which is that of the labels, on its twins; without it the teacher "
        "learns nothing of feedback.",
    )
    warmup_updates: Size = Field(default=0, ge=0, description="Dense updates over which `weight` grows from 0.")
    teacher: TeacherKind = Field(
        default="live",
        description="Weights that teach: those of the step (live), those of one update (frozen), their moving average "
        "(ema), or frozen and live ones mixed (trust_region).",
    )
    teacher_rate: float = Field(
        default=0.05,
        gt=0.0,
        le=1.0,
        description="Of ema, how much of the new weights; of trust_region, of the live ones.",
    )
    frozen_at: Size = Field(
        default=0, ge=0, description="Of frozen and trust_region: the dense update after which the copy is taken."
    )
    div_mix: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="The divergence: 0 is forward KL, the only one that keeps probabilities calibrated; 0.5 is "
        "Jensen-Shannon, 1 reverse KL.",
    )
    rows: DistilledRows = Field(
        default="all", description="Labels that are taught: all, those that are final, or those that are not yet."
    )
    tasks: dict[str, Annotated[float, Field(ge=0.0)]] = Field(
        default={}, description="Weight of each task; by default 1 for those that take time, or for all if none does."
    )
    allow_leak: list[str] = Field(
        default=[], description="Tasks whose feedback may tell the label; otherwise the run stops before it starts."
    )

    @property
    def is_on(self) -> bool:
        return self.weight > 0 or self.teacher_weight > 0

    @model_validator(mode="after")
    def _check(self) -> "DistillConfig":
        if self.weight > 0 and self.teacher_weight == 0:
            raise ValueError(
                f"weight={self.weight:g} needs teacher_weight above 0: a teacher without a loss of its own never "
                "learns to read feedback, and teaches what the model says anyway"
            )
        if self.teacher in ("frozen", "trust_region") and self.weight > 0 and self.frozen_at == 0:
            raise ValueError(
                f"teacher={self.teacher} needs frozen_at, the update after which weights are copied: at the beginning "
                "they know nothing of feedback"
            )
        return self
