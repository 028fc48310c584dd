"""The data sets of the comparison, each cut to what trains in about half a minute on one core, and the model-free
settings."""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

Tree = dict[str, Any]
Budget = Literal["parameters", "flops"]


@dataclass(frozen=True)
class DataSet:
    """`folder` below the data root; `data` and `run` as in a recipe; `tokens` and `longer` of the reference model;
    `queries` of HyFormer by sequence; `task` is the one that settings are chosen by. `models`: only these; `tuned_on`:
    another data set whose settings are taken."""

    folder: str
    data: Tree
    run: Tree
    embedding: Tree
    tokens: Tree
    longer: Tree
    queries: dict[str, int]
    task: str
    dropout: float = 0.2
    hyformer: Tree = field(default_factory=dict)
    head: int = 128
    recent: int = 32  # L_H of HyFormer's encoder longer
    models: tuple[str, ...] = ()
    budgets: tuple[Budget, ...] = ("parameters", "flops")
    tuned_on: str = ""

    @property
    def sees_prefixes(self) -> bool:
        """Candidates that stand at many points of one history: every event is a row and states are causal."""
        return self.tokens.get("position") == "none"


def _folds(batch: int, evaluated: int) -> Tree:
    split = {"train": ["fold3", "fold4", "fold5"], "valid": ["fold2"], "test": ["fold1"]}
    return {**split, "batch_size": batch, "eval_batch_size": evaluated}


EVENTS = {"width": 32, "hidden": 64, "position": "none"}
PREFIX_LONGER = {"merge": 1, "inner_trans": False, "k": 0, "globals": ["candidate"], "heads": 4, "rotary": True}
PREFIX_HYFORMER = {"rotary": True}

DATA = {
    "three": DataSet(
        folder="three",
        data={"batch_size": 128, "eval_batch_size": 256},
        run={"epochs": 1},
        embedding={"dim": 16, "lr": 0.1, "init_scale": 0.5},
        tokens={"width": 32, "hidden": 64, "max_positions": 64},
        longer={"merge": 1, "inner_trans": False, "k": 16, "heads": 4},
        queries={"clicks": 2, "search": 1, "feed": 1},
        task="click",
        dropout=0.0,
        recent=16,
    ),
    "statics2011": DataSet(
        folder="statics2011",
        data=_folds(8, 16),
        run={"epochs": 3, "eval_every": 24},
        embedding={"dim": 32, "lr": 0.05},
        tokens=EVENTS,
        longer=PREFIX_LONGER,
        queries={"history": 1},
        task="correct",
        hyformer=PREFIX_HYFORMER,
    ),
    "assist2009": DataSet(
        folder="assist2009",
        data=_folds(32, 64),
        run={"epochs": 1, "eval_every": 39},
        embedding={"dim": 32, "lr": 0.03, "init_scale": 0.01},
        tokens=EVENTS,
        longer=PREFIX_LONGER,
        queries={"history": 2},
        task="correct",
        hyformer=PREFIX_HYFORMER,
    ),
    "ml-100k": DataSet(
        folder="ml-100k",
        data={"batch_size": 128, "eval_batch_size": 256},
        run={"max_steps": 250},
        embedding={"dim": 16, "lr": 0.1},
        tokens={"width": 16, "hidden": 32, "max_positions": 256},
        longer={"merge": 2, "k": 16, "heads": 4},
        queries={"history": 4},
        task="like",
        head=64,
    ),
    "ml-1m": DataSet(
        folder="ml-1m",
        data={"batch_size": 128, "eval_batch_size": 256, "max_length": 100, "leave_out": ["user"]},
        run={"max_steps": 200},
        embedding={"dim": 16, "lr": 0.05, "init_scale": 0.01},
        tokens={"width": 16, "hidden": 32, "max_positions": 100},
        longer={"merge": 4, "k": 16, "heads": 4},
        queries={"history": 5},
        task="like",
        head=64,
    ),
}

# The crossing is found late: does more training change who is ahead?
DATA["three, two passes"] = replace(
    DATA["three"],
    run={"epochs": 2},
    models=("LONGER", "HyFormer, full", "HyFormer, swiglu"),
    budgets=("flops",),
    tuned_on="three",
)
