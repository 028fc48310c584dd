"""Every setting of every recipe in launch/recipes, so that a changed default shows in the diff of whoever changes
it."""

import pytest

from tests.golden.measure import GOLDEN, RECIPES, REWRITE, resolved


@pytest.mark.parametrize("name", RECIPES)
def test_the_resolved_recipe_is_the_one_that_is_kept(name: str) -> None:
    kept = GOLDEN / "recipes" / f"{name}.yaml"
    assert kept.is_file(), f"{name} has no golden recipe; {REWRITE}"
    assert resolved(name) == kept.read_text(), f"{name} resolves to other settings; if that is meant, {REWRITE}"


@pytest.mark.parametrize(("folder", "ending"), [("recipes", "yaml"), ("models", "json"), ("curves", "json")])
def test_no_golden_file_without_a_recipe(folder: str, ending: str) -> None:
    assert [path.name for path in sorted((GOLDEN / folder).iterdir())] == [f"{name}.{ending}" for name in RECIPES]
