"""Weights that a run does not train: `init.freeze`.

A dense one, and a data-parallel table, requires no gradient. A sharded table is looked up without a gradient, and its
fused optimizer, which decays rows even then, has learning rate and decay 0."""

from collections.abc import Iterable

from dist_rec.common.strict import ConfigError
from dist_rec.config import Config
from dist_rec.data.schema import Schema
from dist_rec.embedding.rows import table_of
from dist_rec.models.build import RankingModel
from dist_rec.training.weight_names import TABLES, idle, name_of, named


def freeze(model: RankingModel, config: Config) -> None:
    """Call before the model is sharded."""
    frozen = {key: weight for key, weight in model.named_parameters() if is_frozen(key, config)}
    sharded = set(map(id, model.embedding.collections.parameters()))
    for weight in frozen.values():
        if id(weight) not in sharded:
            weight.requires_grad_(False)
    model.embedding.frozen = frozenset(
        table for key, weight in frozen.items() if id(weight) in sharded and (table := table_of(key)) is not None
    )


def is_frozen(key: str, config: Config) -> bool:
    """Whether the weight of this key in a state dict of the model is not trained."""
    return config.init is not None and named(name_of(key), config.init.freeze)


def check_freeze(patterns: list[str], model: RankingModel, schema: Schema) -> None:
    """Raises ConfigError for a pattern without a weight, a table with dynamic ids, or if no dense weight is trained."""
    trained = [key for key, weight in model.named_parameters() if weight.requires_grad]
    names = list(map(name_of, trained))
    if wrong := idle(patterns, names):
        raise ConfigError(f"init.freeze: no weight that is trained fits {', '.join(wrong)}; {_told(names)}")
    frozen = [name for name in names if named(name, patterns)]
    if dynamic := [name for name in frozen if schema.open_ids.get(name.removeprefix(TABLES)) == "dynamic"]:
        raise ConfigError(
            f"init.freeze: expected tables whose ids keep their rows, got {', '.join(dynamic)} with dynamic ids"
        )
    sharded = set(map(id, model.embedding.collections.parameters()))
    dense = [name_of(key) for key, weight in model.named_parameters() if key in trained and id(weight) not in sharded]
    if set(dense) <= set(frozen):
        raise ConfigError(
            f"init.freeze: all {len(dense)} dense weights fit {', '.join(patterns)}; expected at least one that is "
            "trained"
        )


def _told(names: Iterable[str]) -> str:
    """Names that end in something that patterns do not need to say."""
    parts = dict.fromkeys(name if name.startswith(TABLES) else ".".join(name.split(".")[:3]) + ".*" for name in names)
    return f"expected names such as {', '.join(parts)}"
