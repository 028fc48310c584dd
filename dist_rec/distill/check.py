"""Whether feedback, labels that take time and the recipe fit together: what can be known without reading data."""

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.schema import Schema


def check_later(config: Config, schema: Schema) -> None:
    """Raises ConfigError if `distill`, `data.observed_at` or `model.head.immature` ask for what the data does not
    have."""
    candidate, head, now = schema.candidate, config.model.head, config.data.observed_at
    for name, value in (("observed_at", now), ("written_at", config.data.written_at)):
        if value is not None and schema.request.time is None:
            raise ConfigError(f"data.{name}={value}: needs request.time in the schema, the time of every request")
    if head.immature != "leave_out":
        timed = [label for label, of in candidate.delayed.items() if of.horizon is not None]
        if now is None or not timed:
            raise ConfigError(
                f"model.head.immature={head.immature}: needs data.observed_at and labels with a horizon (candidate."
                f"delayed in the schema), got data.observed_at={now} and {', '.join(timed) or 'no such label'}"
            )
        if head.loss.name != "binary_cross_entropy":
            raise ConfigError(
                f"model.head.immature={head.immature} is a loss of its own: expected model.head.loss: "
                f"binary_cross_entropy, got {head.loss.name}"
            )
    if config.distill is None or not config.distill.is_on:
        return
    moment = config.data.written_at if now is None else now
    if candidate.feedback is None:
        raise ConfigError(
            "distill: the schema declares no feedback, so a teacher would know nothing more; expected "
            "candidate.feedback in schema.yaml, or no distill"
        )
    if moment is not None and candidate.feedback.window is None:
        raise ConfigError(
            f"distill: training is at {moment}, and the schema does not say after how long feedback is known; expected "
            "candidate.feedback.window in seconds, or candidates that were just served look as if nothing happened"
        )
    for place, names in (("tasks", list(config.distill.tasks)), ("allow_leak", config.distill.allow_leak)):
        if unknown := [name for name in names if name not in candidate.labels]:
            labels = ", ".join(candidate.labels)
            raise ConfigError(f"distill.{place}: no such task as {unknown[0]}; the schema's are: {labels}")
    if config.distill.rows == "immature" and not candidate.delayed:
        raise ConfigError(
            "distill.rows=immature: the schema has no label that takes time, so none would be taught; expected "
            "candidate.delayed in schema.yaml, or rows: all"
        )


def check_copy(config: Config, updates: int) -> None:
    """Raises ConfigError if a teacher's weights would be copied when the run of so many dense updates is over."""
    of = config.distill
    if of is not None and of.weight > 0 and of.teacher in ("frozen", "trust_region") and of.frozen_at >= updates:
        raise ConfigError(
            f"distill.frozen_at={of.frozen_at}: the run has {updates} dense updates, so that nothing would be taught; "
            "expected an earlier one"
        )
