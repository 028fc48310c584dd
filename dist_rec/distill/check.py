"""Whether feedback, labels that take time and the recipe fit together: what can be known without reading data."""

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.schema import Schema


def check_later(config: Config, schema: Schema) -> None:
    """Raises ConfigError if `distill`, `data.observed_at` or `model.head.immature` ask for what the data does not
    have."""
    candidate, head, now = schema.candidate, config.model.head, config.data.observed_at
    if now is not None and schema.request.time is None:
        raise ConfigError(f"data.observed_at={now}: needs request.time in the schema, the time of every request")
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
    if candidate.feedback is None:
        raise ConfigError(
            "distill: the schema declares no feedback, so a teacher would know nothing more; expected "
            "candidate.feedback in schema.yaml, or no distill"
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
