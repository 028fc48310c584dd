from pathlib import Path

import pytest
from rich.console import Console

from dist_rec.common.strict import ConfigError
from dist_rec.training.filter_report import report

RULES = "[{reason: bot, field: item, values: [1, 2, 3]}]"


def _text(path: Path, recipe: Path | None, overrides: list[str]) -> str:
    console = Console(record=True, width=200, quiet=True)
    with console.capture() as said:
        console.quiet = False
        console.print(report(path, recipe, overrides))
    return said.get()


def test_without_a_recipe_and_with_one(data: Path, tmp_path: Path) -> None:
    """The dataset of the command counts, not the recipe's."""
    alone = _text(data, None, [f"data.filter.rules={RULES}", "data.filter.actions.bot=drop"])
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"data: {{path: elsewhere, filter: {{actions: {{bot: drop}}, rules: {RULES}}}}}\n")
    assert _text(data, recipe, []) == alone and "drop" in alone and "test" in alone
    assert "hide" in _text(data, recipe, ["data.filter.actions.bot=hide"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("data: abc", "data"),
        ("data: {filter: abc}", "filter"),
        ("data: {}", "expected data.filter, got none"),
        ("data: {filter: {}}", "expected something to decide by"),
    ],
)
def test_what_is_wrong_with_a_recipe(data: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "recipe.yaml").write_text(text)
    with pytest.raises(ConfigError, match=said):
        report(data, tmp_path / "recipe.yaml", [])
