"""N-grams on public data at equal parameters: the recipe as it is, with wider rows, and with n-grams of a field.

Every run is a row of a CSV, which can be stopped and continued. Wider rows take as many parameters as the n-grams."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from benchmarks.ngram.parameters import parameters
from benchmarks.tables import append, read_rows
from dist_rec.config import Config, load_config
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog
from dist_rec.training.splits import dataset_schema

RECIPES = Path(__file__).parents[2] / "launch" / "recipes"
ORDERS, HEADS = [2, 3], 2
# Fields whose n-grams are tried. Of data in folds, the first fold is tested and the second one validates.
FIELDS = {
    "ml-100k": ("history.item", "history.genres"),
    "ml-1m": ("history.item", "history.genres"),
    "statics2011": ("history.exercise",),
    "assist2009": ("history.problem", "history.skill"),
}
PLAIN, WIDER = "as it is", "wider rows"
MODELS = ("sum_pooling", "longer")
MAX_LENGTH = {"ml-1m": 200}  # of histories; the others are read as long as they are


@dataclass(frozen=True)
class Row:
    """One run; `share` of n-grams in all parameters."""

    data: str
    model: str
    arm: str
    seed: int
    parameters: int
    share: float
    valid_auc: float
    auc: float
    logloss: float
    steps: int


@dataclass(frozen=True)
class Run:
    """One training of an arm: as it is, with wider rows, or with n-grams of a field."""

    data: str
    model: str
    arm: str
    seed: int


def run_real(table: Path, root: Path, names: Iterable[str], models: Iterable[str], seeds: Iterable[int]) -> None:
    """Appends the runs that the table lacks, of the data sets imported into folders of `root`."""
    done = {Run(row.data, row.model, row.arm, row.seed) for row in read(table)}
    runs = [
        Run(name, model, arm, seed)
        for model, seed, name in product(models, seeds, names)
        for arm in (PLAIN, WIDER, *FIELDS[name])
    ]
    todo = [run for run in runs if run not in done]
    if todo:
        with start_ranks(config_of(root, todo[0]).parallel) as ranks:
            for run in todo:
                append(table, _trained(root, run, ranks))


def config_of(root: Path, run: Run) -> Config:
    name, arm = run.data, run.arm
    recipe = load_config(RECIPES / f"{name.replace('-', '')}.yaml")
    tree: dict[str, Any] = recipe.model_dump()
    data: dict[str, Any] = tree["data"]
    data |= {"path": str(root / name), "workers": 0, "max_length": MAX_LENGTH.get(name)}
    if folds := data["folds"]:
        data |= {"folds": [], "test": folds[:1], "valid": folds[1:2], "train": folds[2:]}
    tree["run"] |= {"seeds": [], "seed": run.seed, "name": "real", "log_every": 10_000}
    tree["model"]["name"] = run.model
    dim = recipe.embedding.dim
    if arm == WIDER:
        tree["embedding"]["dim"] = 2 * dim
    elif arm != PLAIN:
        data["ngram"] = {arm: {"orders": ORDERS, "heads": HEADS, "rows": 1}}
        wider, _ = parameters(config_of(root, replace(run, arm=WIDER)))
        with_one, _ = parameters(Config.model_validate(tree))
        # A row of each sub-table together has `dim` numbers.
        data["ngram"][arm]["rows"] = 1 + (wider - with_one) // dim
    return Config.model_validate(tree)


def _trained(root: Path, run: Run, ranks: Ranks) -> Row:
    config = config_of(root, run)
    count, ngrams = parameters(config)
    with TemporaryDirectory() as out, RunLog(Path(out), is_main=True, console=Console(quiet=True)) as log:
        result = train_one(config, ranks, log)
    task = dataset_schema(config).candidate.labels[0]
    scores = result.valid[task].auc, result.test[task].auc, result.test[task].logloss
    return Row(
        run.data,
        run.model,
        run.arm,
        run.seed,
        count,
        round(ngrams / count, 4),
        *(round(s, 5) for s in scores),
        result.steps,
    )


def read(table: Path) -> list[Row]:
    return read_rows(table, Row)


def page(rows: list[Row]) -> Iterator[str]:
    """Lines of the table."""
    yield (
        f"Recipes of `launch/recipes`, one rank; of data in folds the first fold is tested. N-grams: orders {ORDERS}, "
        f"{HEADS} heads, mixed hash, LayerNorm, as many parameters as with wider rows. Mean and deviation over "
        "seeds."
    )
    yield from ("", "| data | model | arm | parameters | share of n-grams | test AUC | test logloss | seeds |")
    yield "|---|---|---|---|---|---|---|---|"
    for data, model, arm in dict.fromkeys((row.data, row.model, row.arm) for row in rows):
        found = [row for row in rows if (row.data, row.model, row.arm) == (data, model, arm)]
        auc, logloss = ([getattr(row, name) for row in found] for name in ("auc", "logloss"))
        spread = (f"{mean(of):.4f}" + (f" +- {stdev(of):.4f}" if len(of) > 1 else "") for of in (auc, logloss))
        name = arm if arm in (PLAIN, WIDER) else f"n-grams of {arm}"
        size = f"{found[0].parameters:,} | {found[0].share:.0%}"
        yield f"| {data} | {model} | {name} | {size} | {' | '.join(spread)} | {len(found)} |"
