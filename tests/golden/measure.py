"""What is kept of every recipe in launch/recipes: the resolved whole, the model's shapes and costs, the losses of 20
steps.

`python -m tests.golden.write` writes all of it anew, for a change that is meant to change numbers.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dist_rec.common.provenance import commit, versions
from dist_rec.config import Config, load_config
from dist_rec.models.build import build_model
from dist_rec.models.cost import dense_params, request_flops
from dist_rec.training.report import config_yaml
from dist_rec.training.splits import dataset_schema
from tests.golden.data import make_set
from tests.helpers.ranks import run_ranks
from tests.training.runs import losses, run, these_ranks

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parents[1]
RECIPES = sorted(path.stem for path in (ROOT / "launch" / "recipes").glob("*.yaml"))
RANKS = (1, 2)
STEPS, BATCH = 20, 16
REWRITE = "`python -m tests.golden.write` writes it anew"
# Of the request that FLOPs are counted for.
EVENTS, CANDIDATES = 100, 3


def recipe(name: str) -> Config:
    """A recipe as a user runs it."""
    return load_config(ROOT / "launch" / "recipes" / f"{name}.yaml")


def resolved(name: str) -> str:
    """Every setting of a recipe, as YAML."""
    return config_yaml(recipe(name)) + "\n"


@dataclass(frozen=True)
class Sets:
    """The small data sets of the recipes below one folder, each made when the first recipe needs it."""

    folder: Path

    def of(self, name: str) -> Path:
        """The dataset folder for a recipe."""
        source = Path(recipe(name).data.path).name
        place = self.folder / source
        return place / "out" if place.is_dir() else make_set(source, place)


def model_facts(name: str, sets: Sets) -> dict[str, Any]:
    """Names and shapes of the whole model's state, dense parameters by part, and FLOPs by part of one request."""
    config = recipe(name)
    data = config.data
    schema = dataset_schema(config.model_copy(update={"data": data.model_copy(update={"path": str(sets.of(name))})}))
    model = build_model(schema, config, torch.device("cpu"))
    lengths = {sequence.name: EVENTS for sequence in schema.sequences}
    return {
        "state": {key: list(value.shape) for key, value in model.state_dict().items()},
        "dense_params": dense_params(model.ranker),
        "flops": {
            "events": EVENTS,
            "candidates": CANDIDATES,
            "parts": request_flops(model.ranker, lengths, CANDIDATES),
        },
    }


def curve_config(name: str, sets: Sets, out: Path) -> Config:
    """A recipe for 20 deterministic steps of 16 requests at most on small data, without evaluation and checkpoints.

    Rows are read in the training process, since the ranks of a test may not start processes. A delayed update starts
    after half of the steps, so that both kinds of step are in the curve."""
    tree = recipe(name).model_dump(mode="json")
    folds = tree["data"]["folds"]
    tree["data"] |= {"path": str(sets.of(name)), "valid": [], "test": [], "folds": [], "workers": 0}
    tree["data"]["batch_size"] = min(tree["data"]["batch_size"], BATCH)
    tree["data"]["train"] = folds[2:] or tree["data"]["train"]
    tree["optim"]["warmup_sync_steps"] = STEPS // 2
    tree["run"] |= {"seed": 1, "seeds": [], "epochs": STEPS, "max_steps": STEPS, "log_every": 1, "deterministic": True}
    tree["run"] |= {"out": str(out), "select_best": "none", "patience": 0}
    tree["checkpoint"] |= {"every_steps": 0, "at_end": False}
    return Config.model_validate(tree)


def curves(names: list[str], ranks: int, sets: Sets, out: Path) -> dict[str, list[float]]:
    """The losses of every step of these recipes on so many ranks, all in one job: starting ranks takes longer than a
    curve."""
    configs = {name: curve_config(name, sets, out / f"{ranks}") for name in names}
    run_ranks(_train, ranks, configs)
    return {name: losses(config, name) for name, config in configs.items()}


def _train(configs: dict[str, Config]) -> None:
    ranks = these_ranks()
    for name, config in configs.items():
        run(config, ranks, name)


def made_with() -> dict[str, str]:
    """What the numbers of a file came from."""
    return {"commit": commit(), **versions(), "numpy": np.__version__}
