"""Trainings under every action, over widths, shares, label noise and starts. A row of the CSV is one run; the study can
be stopped and continued."""

import csv
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from torch import nn

from benchmarks.filtering.data import (
    NOISE,
    SYNTHETIC,
    Domain,
    best_losses,
    labels_of,
    make_ml100k,
    make_statics,
    make_synthetic,
    threshold,
    users_to_remove,
)
from benchmarks.filtering.policy import NoisyOptions
from dist_rec.config import Config, load_config
from dist_rec.training.checkpoint import load_checkpoint
from dist_rec.training.evaluate import evaluate_split
from dist_rec.training.loop import train_one
from dist_rec.training.metrics import TaskMetrics
from dist_rec.training.pipeline import plan_model, shard_model
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.splits import dataset_schema

RECIPES = Path(__file__).resolve().parents[2] / "launch/recipes"
ACTIONS = ("user", "mask", "hide", "keymask", "drop")
WIDTHS, WIDTH = (8, 16, 32, 64), 32
SHARES, SHARE = (0.03, 0.1, 0.2, 0.5), 0.2
FLIPS = (0.0, 0.1, 0.2, 0.4)
STEPS, SHORTER = 100, (10, 20, 40, 70)
LATE = 0.4
RESULTS = (
    "filtered",
    "forget_auc",
    "retain_auc",
    "forget_loss",
    "retain_loss",
    "best_forget",
    "best_retain",
    "seconds",
)
Row = dict[str, str]


@dataclass(frozen=True)
class Cell:
    """One run. `action`: none, user (users removed) or an action on events. `share` of all events is filtered by a
    threshold on noisy scores; 0: exactly the domain, with decisions turned round by `flip`. `start` is a share of the
    steps."""

    part: str
    data: str
    width: int
    action: str
    share: float
    flip: float
    steps: int
    start: float
    seed: int

    @property
    def key(self) -> tuple[str, ...]:
        return tuple(str(value) for value in asdict(self).values())


FIELDS = (*(field.name for field in fields(Cell)), *RESULTS)


def cells(seeds: int) -> list[Cell]:
    """Seed by seed, so that each part has something after a while."""
    found: list[Cell] = []
    for seed in range(1, seeds + 1):

        def add(part: str, seed: int = seed, data: str = "synthetic", **of: Any) -> None:
            default = {"width": WIDTH, "action": "none", "share": 0.0, "flip": 0.0, "steps": STEPS, "start": 0.0}
            found.append(Cell(part=part, data=data, seed=seed, **{**default, **of}))

        for width in WIDTHS:
            for steps in (*SHORTER, STEPS):
                add("compute", width=width, steps=steps)
            for action in ACTIONS:
                add("frontier" if width == WIDTH else "widths", width=width, action=action, share=SHARE)
        for share in SHARES:
            for action in ACTIONS if share != SHARE else ():
                add("frontier", action=action, share=share)
        for action in ("mask", "hide", "drop"):
            for flip in FLIPS:
                add("noise", action=action, flip=flip)
            add("late", action=action, start=LATE)
    return sorted(found, key=lambda cell: (cell.seed, cell.width != WIDTH))


def cells_of(data: str, seeds: int) -> list[Cell]:
    """Of a public data set."""
    steps = 157 if data == "ml-100k" else 60
    return [
        Cell("public", data, 16, action, 0.0, 0.0, steps, 0.0, seed)
        for seed in range(1, seeds + 1)
        for action in ("none", "mask", "hide", "keymask", "drop")
    ]


def run_study(table: Path, todo: list[Cell], source: Path) -> None:
    """Appends a row for every cell that the table lacks. `source`: the folder with the public data sets' folders."""
    done = {tuple(row[field.name] for field in fields(Cell)) for row in read(table)}
    todo = [cell for cell in todo if cell.key not in done]
    if not table.exists():
        table.write_text(",".join(FIELDS) + "\n")
    with TemporaryDirectory() as name, table.open("a") as file, start_ranks(any_config().parallel) as ranks:
        root = Path(name)
        for number, cell in enumerate(todo, 1):
            row = run_cell(cell, ranks, root, source)
            csv.DictWriter(file, FIELDS).writerow(asdict(cell) | row)
            file.flush()
            print(f"{number}/{len(todo)} {cell.key} {row}", flush=True)


def run_cell(cell: Cell, ranks: Ranks, root: Path, source: Path) -> dict[str, str]:
    folder, domain = dataset(cell.data, cell.seed, root, source)
    started = time.process_time()
    with trained(cell, ranks, folder, domain) as (config, checkpoint, share):
        metrics = evaluated(config, checkpoint, domain, ranks)
    best = best_losses(folder, domain) if cell.data == "synthetic" else {}
    forget, retain = metrics.strata["forget"], metrics.strata["retain"]
    found = [share, forget.auc, retain.auc, forget.logloss, retain.logloss, best.get("forget"), best.get("retain")]
    told = ["" if value is None else f"{value:.5f}" for value in found]
    return dict(zip(RESULTS, [*told, f"{time.process_time() - started:.1f}"], strict=True))


def dataset(name: str, seed: int, root: Path, source: Path) -> tuple[Path, Domain]:
    """Made when it is asked for; a synthetic one for every seed."""
    folder = root / (f"{name}-{seed}" if name == "synthetic" else name)
    if folder not in _made:
        makers: dict[str, Callable[[], Domain]] = {
            "synthetic": lambda: make_synthetic(folder, SYNTHETIC, seed),
            "ml-100k": lambda: make_ml100k(folder, source),
            "statics2011": lambda: make_statics(folder, source),
        }
        _made[folder] = makers[name]()
    return folder, _made[folder]


_made: dict[Path, Domain] = {}


@contextmanager
def trained(cell: Cell, ranks: Ranks, folder: Path, domain: Domain) -> Iterator[tuple[Config, Path, float]]:
    """Trains a cell; inside of the block its recipe, its checkpoint and the share of events that were filtered."""
    with TemporaryDirectory() as name:
        out = Path(name)
        made, share = filter_of(cell, folder, domain, out)
        config = config_of(cell, folder, made)
        with RunLog(out / "run", is_main=True, console=Console(quiet=True)) as log:
            train_one(config, ranks, log)
            yield config, log.checkpoints / "last", share


def filter_of(cell: Cell, folder: Path, domain: Domain, out: Path) -> tuple[dict[str, Any] | None, float]:
    """The `data.filter` of a cell, and the share of the events of train that it filters."""
    if cell.action == "none":
        return None, 0.0
    options: dict[str, Any] = {"field": domain.field, "domain": domain.values, "flip": cell.flip, "seed": cell.seed}
    split = "fold3" if cell.data == "statics2011" else "train"
    _, of_domain, _ = labels_of(folder, domain, NoisyOptions(**options), split)
    if cell.share:
        options |= {"noise": NOISE, "above": threshold(float(of_domain.mean()), cell.share)}
    user, _, filtered = labels_of(folder, domain, NoisyOptions(**options), split)
    shared = {"evaluation": "as_is", "start_step": round(cell.start * cell.steps)}
    if cell.action != "user":
        policy = {"name": "benchmarks.filtering.policy:NoisyDomain", "options": options}
        return shared | {"actions": {"unlearn": cell.action}, "policy": policy}, float(filtered.mean())
    at_half = NoisyOptions(**options | {"above": 0.5})
    users = users_to_remove(folder, domain, at_half, cell.share)
    file = out / "users.txt"
    file.write_text("\n".join(map(str, users)) + "\n")
    rule = {"field": "user", "file": str(file), "reason": "unlearn"}
    return shared | {"actions": {"unlearn": "drop"}, "rules": [rule]}, float(_among(user, users))


def _among(user: Any, users: list[int]) -> float:
    return sum(int((user == key).sum()) for key in users) / len(user)


def config_of(cell: Cell, folder: Path, made: dict[str, Any] | None) -> Config:
    width = cell.width
    recipe = {"synthetic": "quickstart.yaml", "ml-100k": "ml100k.yaml", "statics2011": "statics2011.yaml"}[cell.data]
    own = {
        "synthetic": ["data.batch_size=32", "optim.lr=0.01", "model.longer.heads=2", "data.train=[train]"],
        "ml-100k": ["run.seeds=[]", "data.max_length=64"],
        "statics2011": ["run.seeds=[]", "data.folds=[]", "data.train=[fold3,fold4,fold5]"],
    }[cell.data]
    settings = [
        *(f"data.path={folder}", "data.valid=[]", "data.test=[]", "data.workers=0", "data.eval_batch_size=128"),
        *("optim.dense_update=sync", f"model.tokens.width={width}", f"model.tokens.hidden={2 * width}"),
        *(f"embedding.dim={max(4, width // 2)}", f"run.max_steps={cell.steps}", "run.epochs=20", "run.eval_every=0"),
        *("run.select_best=none", f"run.log_every={cell.steps}", f"run.seed={cell.seed}", "checkpoint.at_end=true"),
    ]
    config = load_config(RECIPES / recipe, [*settings, *own])
    return Config.model_validate(config.model_dump() | {"data": config.data.model_dump() | {"filter": made}})


def any_config() -> Config:
    """Starts one rank on a CPU."""
    return load_config(RECIPES / "quickstart.yaml", ["parallel.backend=gloo"])


def evaluated(config: Config, checkpoint: Path, domain: Domain, ranks: Ranks) -> TaskMetrics:
    """Metrics of the first task with whole histories, also of the candidates of the domain and of the others."""
    model, told_apart = evaluated_model(config, checkpoint, domain, ranks)
    folders = ["fold1"] if "fold3" in config.data.train else ["valid", "test"]
    return next(iter(evaluate_split(model, told_apart, dataset_schema(told_apart), folders, ranks).values()))


def evaluated_model(config: Config, checkpoint: Path, domain: Domain, ranks: Ranks) -> tuple[nn.Module, Config]:
    """A model with the weights of a checkpoint, and the recipe to evaluate it with."""
    told_apart = exact(config, domain)
    model, plan = plan_model(dataset_schema(told_apart), told_apart, ranks)
    sharded = shard_model(model, plan, told_apart, ranks)
    load_checkpoint(checkpoint, sharded, None, ranks)
    return sharded, told_apart


def exact(config: Config, domain: Domain) -> Config:
    """The recipe with the exact domain for a filter that leaves histories as they are."""
    rule = {"field": domain.field, "values": domain.values, "reason": "unlearn"}
    made = {"actions": {"unlearn": "mask"}, "rules": [rule], "evaluation": "as_is"}
    return Config.model_validate(config.model_dump() | {"data": config.data.model_dump() | {"filter": made}})


def read(table: Path) -> list[Row]:
    if not table.exists():
        return []
    with table.open() as file:
        return list(csv.DictReader(file))
