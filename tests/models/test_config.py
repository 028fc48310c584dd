"""What a recipe may say of any model, and what is kept of it; more in tests/test_config.py."""

from typing import Any

import pytest
import yaml

from dist_rec.common.strict import ConfigError, check
from dist_rec.config import Config


def _resolved(model: dict[str, Any]) -> dict[str, Any]:
    return check(Config, {"data": {"path": "x"}, "model": model}, "here").model_dump(mode="json")["model"]


@pytest.mark.parametrize(
    ("model", "sections"),
    [
        ({}, {"longer"}),
        ({"name": "din", "longer": {"k": 3}}, {"din"}),
        ({"interaction": "rankmixer"}, {"longer", "rankmixer"}),
        ({"name": "hyformer"}, {"hyformer"}),
        ({"name": "own.model:Mine", "options": {"heads": 2}}, {"options"}),
    ],
)
def test_the_resolved_recipe_has_the_sections_in_use_and_reads_back(model: dict[str, Any], sections: set[str]) -> None:
    tree = _resolved(model)
    shared = {"name", "interaction", "tokens", "non_sequential", "head", "precision", "recompute"}
    assert set(tree) == shared | sections
    assert _resolved(yaml.safe_load(yaml.safe_dump(tree))) == tree


def test_sections_that_are_not_in_use_are_checked_all_the_same() -> None:
    with pytest.raises(ConfigError, match=r"model.hyformer.layrs: unknown key; did you mean 'layers'\?"):
        _resolved({"name": "din", "hyformer": {"layrs": 2}})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        _resolved({"longer": {"kk": 1}, "lnger": {}, "tokens": {"width": -1}})
    assert len(str(caught.value).splitlines()) == 4


def test_options_are_for_models_of_ones_own() -> None:
    with pytest.raises(ConfigError, match=r"options: longer is built in; its options are the section model.longer"):
        _resolved({"options": {"k": 3}})


def test_reading_a_recipe_imports_no_part_of_it() -> None:
    """A recipe may be a stranger's, in a checkpoint. A path is followed by the door."""
    assert _resolved({"name": "this.is.not:There"})["name"] == "this.is.not:There"
