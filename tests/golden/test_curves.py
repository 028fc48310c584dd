"""The losses of every recipe's first 20 steps on one rank and on two, on small generated data."""

import json
from dataclasses import dataclass

import pytest

from tests.golden.measure import GOLDEN, RANKS, RECIPES, REWRITE, Sets, curves

# Not to the bit: CPUs differ in the width of their vectors and in how they multiply bf16, which Muon does, so sums are
# split in another way: up to 7e-5 apart after 20 steps on two generations of Xeon, and 0 at the first. A change of the
# maths moves a loss by far more.
FIRST_RTOL, RTOL = 1e-5, 3e-4


@dataclass(frozen=True)
class Curves:
    """The losses by recipe on so many ranks."""

    ranks: int
    losses: dict[str, list[float]]


WORLDS = [1, *(pytest.param(ranks, marks=pytest.mark.slow) for ranks in RANKS if ranks > 1)]


@pytest.fixture(scope="module", params=WORLDS, ids=lambda ranks: f"{ranks}-ranks")
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Curves:
    """One job for all the recipes that are tested, which may be a selection."""
    tested = [item for item in request.session.items if isinstance(item, pytest.Function) and item.path == request.path]
    names = {str(item.callspec.params["name"]) for item in tested if item.callspec.params["found"] == request.param}
    folder = tmp_path_factory.mktemp("curves")
    return Curves(request.param, curves(sorted(names), request.param, Sets(folder / "data"), folder))


@pytest.mark.parametrize("name", RECIPES)
def test_the_curve_of_a_recipe_is_the_one_that_is_kept(name: str, found: Curves) -> None:
    kept = json.loads((GOLDEN / "curves" / f"{name}.json").read_text())
    expected, got = kept["losses"][f"{found.ranks}"], found.losses[name]
    far = [
        step
        for step, (loss, kept_loss) in enumerate(zip(got, expected), 1)
        if loss != pytest.approx(kept_loss, rel=FIRST_RTOL if step == 1 else RTOL, abs=0.0)
    ]
    if far or len(got) != len(expected):
        step = far[0] if far else min(len(got), len(expected)) + 1
        pytest.fail(
            f"{name} on {found.ranks} rank(s): from step {step} on other losses than with {kept['made_with']}:\n"
            f"expected {expected}\ngot {got}\nif that is meant, {REWRITE}"
        )
