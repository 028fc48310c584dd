"""The recipes whose data are made here, trained for some steps and evaluated; on a GPU in bf16, as users start them."""

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from dist_rec.config import load_config
from dist_rec.data.synthetic.delayed import DelayedConfig, synthesize_delayed
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.data.synthetic.three import ThreeConfig, synthesize_three
from tests.helpers.devices import DEVICES, one_rank
from tests.training.runs import losses, rows, run

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
STEPS, REQUESTS = 4, 300


def _quickstart(out: Path) -> None:
    synthesize(out, SynthConfig(requests=REQUESTS, max_length=100))


def _forget(out: Path) -> None:
    synthesize(out, SynthConfig(requests=REQUESTS, max_length=100, forget_share=0.2))


def _three(out: Path) -> None:
    synthesize_three(out, ThreeConfig(requests=REQUESTS))


def _delayed(out: Path) -> None:
    synthesize_delayed(out, DelayedConfig(requests=REQUESTS, shown=1, days=8))


MADE = {
    "quickstart": _quickstart,
    "ngram": _quickstart,
    "filter": _forget,
    "hyformer": _three,
    "longer_rankmixer": _three,
    "distill": _delayed,
}


@pytest.mark.parametrize("recipe", MADE)
@pytest.mark.parametrize("device", DEVICES)
def test_a_recipe_trains(recipe: str, device: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make: Callable[[Path], None] = MADE[recipe]
    make(tmp_path / "data")
    settings = [f"data.path={tmp_path / 'data'}", f"run.out={tmp_path / 'runs'}", f"run.max_steps={STEPS}"]
    settings += ["data.batch_size=16", "data.eval_batch_size=16", "data.workers=0", "run.log_every=1"]
    config = load_config(RECIPES / f"{recipe}.yaml", settings)
    with one_rank(device) as ranks, caplog.at_level(logging.WARNING):
        run(config, ranks)
    found = losses(config, "run")
    assert len(found) == STEPS and all(map(math.isfinite, found))
    tested = rows(config, "run", "test")
    assert tested and all(math.isfinite(row["logloss"]) for row in tested)
    assert "is compiled in the middle of training" not in caplog.text
