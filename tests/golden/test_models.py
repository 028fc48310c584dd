"""Names and shapes of every recipe's weights, which checkpoints depend on, and what its model costs."""

import json
from pathlib import Path

import pytest

from tests.golden.measure import GOLDEN, RECIPES, REWRITE, Sets, model_facts


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Sets:
    return Sets(tmp_path_factory.mktemp("golden"))


def _kept(name: str) -> Path:
    return GOLDEN / "models" / f"{name}.json"


@pytest.mark.parametrize("name", RECIPES)
def test_the_model_of_a_recipe_is_the_one_that_is_kept(name: str, sets: Sets) -> None:
    found, kept = model_facts(name, sets), json.loads(_kept(name).read_text())
    state = found.pop("state"), kept.pop("state")
    assert list(state[0].items()) == list(state[1].items()), f"other weights, or another order; if meant, {REWRITE}"
    assert found == kept, f"other costs; if that is meant, {REWRITE}"
