"""Whether a model can work on a schema: everything that can be known without building it. No torch."""

from dist_rec.common.strict import ConfigError
from dist_rec.data.kinds import check_fitted
from dist_rec.data.schema import Schema
from dist_rec.models.config import ModelConfig
from dist_rec.models.features import FeatureColumns, widened
from dist_rec.models.options import check_divides, num_non_sequential


def check_model(schema: Schema, model: ModelConfig, table_dims: dict[str, int]) -> None:
    """Raises ConfigError if the model cannot work on this schema; `table_dims` gives the width of the rows of each
    table."""
    check_fitted(schema)
    options = model.resolved_options()
    try:
        options.check_model(model)
    except ValueError as error:  # a model of one's own: built-in options were checked with the recipe
        raise ConfigError(f"model: {error}") from None
    columns = FeatureColumns.of(schema, widened(schema, table_dims, model.tokens), model.tokens.side_dim)
    check_split(model.non_sequential.split, columns.total)
    options.check_schema(model, schema)
    if schema.candidate.feedback is not None and not options.READS_FEEDBACK:
        raise ConfigError(
            f"distill: {model.name} has no place for feedback of candidates; expected model.name: longer or hyformer, "
            "or a model of one's own whose options say READS_FEEDBACK"
        )
    if schema.candidate.visible_events and model.tokens.position == "recency":
        raise ConfigError(
            "model.tokens.position: candidates with their own `visible_events` have no common newest event; expected "
            "absolute or none"
        )
    if model.interaction == "rankmixer":
        counts = {"sequences": len(schema.sequences), "non-sequential": num_non_sequential(model, schema)}
        check_divides(model.section("rankmixer").width, counts, "model.rankmixer.width")
    labels = schema.candidate.labels
    if unknown := [task for task in model.head.task_weights if task not in labels]:
        raise ConfigError(f"model.head.task_weights.{unknown[0]}: no such task; the schema's are: {', '.join(labels)}")


def check_split(count: int | None, columns: int) -> None:
    """Raises ConfigError if slices of ceil(columns / count) columns use up all columns before the last slice."""
    if count is None:
        return
    width = -(-columns // count)
    if (full := -(-columns // width)) < count:
        raise ConfigError(
            f"model.non_sequential.split={count}: there are only {columns} columns of features to cut, and slices of "
            f"{width} use them up in {full} tokens; expected for example {full}"
        )
