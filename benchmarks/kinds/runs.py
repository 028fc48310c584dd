"""Runs of the arms on a dataset, and the table of a page: each arm against ids alone, over paired seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.distill.runs import trained
from benchmarks.kinds.arms import BASE, Arm, write_arm
from benchmarks.tables import append, read_rows
from dist_rec.config import Config
from dist_rec.training.ranks import start_ranks


@dataclass(frozen=True)
class Row:
    """One run: metrics on the test split. `best_auc`: the best that is reachable with what the arm is given, NaN where
    nobody knows."""

    arm: str
    seed: int
    auc: float
    logloss: float
    best_auc: float


def run_arms(
    table: Path,
    source: Path,
    arms: Mapping[str, Arm],
    recipe: Mapping[str, Any],
    seed: int,
    best: Mapping[str, float] | None = None,
) -> None:
    """Appends the runs of a seed that the table lacks. `recipe`: the tree of a recipe without path, encodings and seed;
    `best`: the best AUC of each arm."""
    done = {(row.arm, row.seed) for row in read(table)}
    for name, arm in arms.items():
        if (name, seed) not in done:
            with TemporaryDirectory() as place:
                write_arm(source, Path(place) / "data", arm.kept)
                config = config_of(recipe, Path(place) / "data", arm, seed)
                with start_ranks(config.parallel) as ranks:
                    test, _ = trained(config, ranks)
            best_auc = nan if best is None else round(best[name], 5)
            append(table, Row(name, seed, round(test.auc, 5), round(test.logloss, 5), best_auc))


def config_of(recipe: Mapping[str, Any], data: Path, arm: Arm, seed: int) -> Config:
    of_run = {"seed": seed, "out": str(data.parent / "run"), "log_every": 1_000}
    changes = {
        "data": {**recipe["data"], "path": str(data), "workers": 0, "numbers": dict(arm.numbers)},
        "run": {**recipe["run"], **of_run},
        "checkpoint": {"at_end": False},
    }
    return Config.model_validate({**recipe, **changes})


def read(table: Path) -> list[Row]:
    return read_rows(table, Row)


def arms_table(rows: list[Row], arms: Mapping[str, Arm]) -> Iterator[str]:
    """Lines. ± is the standard deviation over seeds, of a difference that of the pairs."""
    knows = any(not isnan(row.best_auc) for row in rows)
    base = {row.seed: row for row in rows if row.arm == BASE}
    best = " best reachable | to be won |" if knows else ""
    yield f"| arm | AUC | against ids alone, paired |{best} logloss | seeds |"
    yield "|---" * (7 if knows else 5) + "|"
    for arm in arms:
        of = [row for row in rows if row.arm == arm and row.seed in base]
        if of:
            gains = [row.auc - base[row.seed].auc for row in of]
            cells = [_spread([row.auc for row in of]), "" if arm == BASE else _spread(gains, signed=True)]
            if knows:
                won = mean(row.best_auc - base[row.seed].best_auc for row in of)
                cells += [f"{mean(row.best_auc for row in of):.4f}", "" if arm == BASE else f"{won:+.4f}"]
            cells += [f"{mean(row.logloss for row in of):.4f}", str(len(of))]
            yield f"| {arm} | {' | '.join(cells)} |"


def _spread(values: list[float], *, signed: bool = False) -> str:
    sign = "+" if signed else ""
    return f"{mean(values):{sign}.4f} ± {stdev(values) if len(values) > 1 else 0.0:.4f}"
