"""`dist-rec filter report`: what the filter of a recipe would do to a dataset."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import RenderableType

from dist_rec.common.strict import ConfigError, check
from dist_rec.common.yaml_file import apply_override, read_yaml
from dist_rec.config import Config
from dist_rec.data.filter.config import FilterConfig
from dist_rec.data.filter.report import filter_report, render
from dist_rec.registry import READERS
from dist_rec.training.splits import dataset_schema


def report(path: Path, recipe: Path | None, overrides: Sequence[str]) -> RenderableType:
    """A table and examples, of the dataset at `path` with the recipe's filter, reader and fields; without a recipe of
    a filter by the columns `reason` alone. Overrides are keys of a recipe, such as data.filter.actions.bot=drop.

    Raises ConfigError, DataError."""
    tree = {} if recipe is None else read_yaml(recipe)
    for override in [*overrides, f"data.path={path}"]:
        apply_override(tree, override)
    config = check(Config, tree, str(recipe or "--set"))
    chosen = config.data.filter
    if chosen is None and recipe is not None:
        raise ConfigError(f"{recipe}: expected data.filter, got none; give one with --set data.filter....")
    reader = READERS.make(config.data.reader)
    return render(filter_report(path, dataset_schema(config), chosen or FilterConfig(), reader))
