"""Which tasks have a teacher. No torch of its own."""

from dist_rec.config import Config
from dist_rec.data.schema import Schema


def taught_tasks(config: Config, schema: Schema) -> dict[str, float]:
    """The tasks that a teacher teaches, and their weights: by default those that take time, or all if none does."""
    named = {} if config.distill is None else config.distill.tasks
    return named or dict.fromkeys(schema.candidate.delayed or schema.candidate.labels, 1.0)
