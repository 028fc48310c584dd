"""N-grams on Markov data at equal total parameters: which orders, heads, amplification and share of the parameters.

Every run is a row of a CSV, which can be stopped and continued. The control is a wider table of ids."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory

from rich.console import Console

from benchmarks.ngram.markov import MarkovConfig, write_markov
from benchmarks.ngram.parameters import parameters
from benchmarks.tables import append, read_rows
from dist_rec.common.ngram import Amplify
from dist_rec.config import Config
from dist_rec.training.loop import train_one
from dist_rec.training.ranks import Ranks, start_ranks
from dist_rec.training.run_log import RunLog

PARAMETERS = 160_000
DATA = MarkovConfig()
SEEDS = (1, 2, 3, 4, 5)
WIDTH = 96  # of a row, in arms of n-grams; a multiple of 4 M for every M below
ARMS = {"N2K1": ([2], 1), "N2K2": ([2], 2), "N3K2": ([2, 3], 2), "N4K2": ([2, 3, 4], 2)}
AMPLIFY: tuple[Amplify, ...] = ("none", "sqrt", "layer_norm")
SHARE_WIDTHS = (256, 240, 192, 144, 96, 48, 16)  # the wider the row, the fewer parameters are left for n-grams
MERGED = 4
WIDER = "wider table"


@dataclass(frozen=True)
class Arm:
    """One model: `name` of ARMS or the control; `dim` of a row, 0 where it follows from PARAMETERS."""

    name: str
    amplify: str = "layer_norm"
    dim: int = WIDTH
    merge: int = 1


@dataclass(frozen=True)
class Row:
    """One run. `rows` of every sub-table, `share` of n-grams in all parameters."""

    name: str
    amplify: str
    dim: int
    merge: int
    seed: int
    rows: int
    parameters: int
    share: float
    auc: float
    logloss: float
    best_auc: float


def arms() -> list[Arm]:
    found = [Arm(WIDER, "none", 0)]
    found += [Arm(name, amplify) for name in ARMS for amplify in AMPLIFY]
    found += [Arm("N3K2", dim=dim) for dim in SHARE_WIDTHS if dim != WIDTH]
    return [*found, Arm(WIDER, "none", 0, MERGED), Arm("N3K2", merge=MERGED)]


def run_study(table: Path, seeds: Iterable[int] = SEEDS) -> None:
    """Appends the runs that the table lacks, seed after seed."""
    done = {(row.name, row.amplify, row.merge, row.dim, row.seed) for row in read(table)}
    with TemporaryDirectory() as place:
        data = Path(place) / "markov"
        write_markov(data, DATA)
        with start_ranks(config_of(data, Arm(WIDER, "none", 16), 0, 1).parallel) as ranks:
            for seed in seeds:
                for arm in arms():
                    dim, rows = sized(data, arm)
                    if (arm.name, arm.amplify, arm.merge, dim, seed) not in done:
                        append(table, _trained(data, Arm(arm.name, arm.amplify, dim, arm.merge), rows, seed, ranks))


def config_of(data: Path, arm: Arm, rows: int, seed: int) -> Config:
    orders, heads = ARMS.get(arm.name, ([], 0))
    spec = {"orders": orders, "heads": heads, "rows": rows, "amplify": arm.amplify}
    longer = {"globals": ["candidate"], "merge": arm.merge, "inner_trans": arm.merge > 1, "k": 4, "heads": 2}
    return Config.model_validate(
        {
            "data": {
                "path": str(data),
                "batch_size": 64,
                "eval_batch_size": 512,
                "workers": 0,
                "ngram": {"history.item": spec} if orders else {},
            },
            "model": {
                "tokens": {"width": 32 // arm.merge, "hidden": 64, "max_positions": 8},
                "longer": longer,
                "head": {"hidden": [64]},
            },
            "embedding": {"dim": arm.dim, "lr": 0.2},
            "optim": {"dense_update": "sync", "optimizer": "muon", "lr": 0.02, "warmup_steps": 20},
            "run": {"seed": seed, "out": str(data.parent), "name": "study", "log_every": 1000},
            "checkpoint": {"at_end": False},
        }
    )


@cache
def sized(data: Path, arm: Arm) -> tuple[int, int]:
    """Width of a row, and rows of every sub-table, so that the model has about PARAMETERS."""
    if arm.name == WIDER:

        def distance(dim: int) -> int:
            return abs(parameters(config_of(data, _wide(arm, dim), 0, 0))[0] - PARAMETERS)

        return min(range(16, 1025, 4), key=distance), 0
    with_few, _ = parameters(config_of(data, arm, 16, 0))
    return arm.dim, 16 + (PARAMETERS - with_few) // arm.dim  # a row of every sub-table has `dim` numbers together


def _wide(arm: Arm, dim: int) -> Arm:
    return Arm(arm.name, arm.amplify, dim, arm.merge)


def _trained(data: Path, arm: Arm, rows: int, seed: int, ranks: Ranks) -> Row:
    count, ngrams = parameters(config_of(data, arm, rows, 0))
    with TemporaryDirectory() as out, RunLog(Path(out), is_main=True, console=Console(quiet=True)) as log:
        metrics = train_one(config_of(data, arm, rows, seed), ranks, log).test["next"]
    best = metrics.best_auc or 0.0
    share = round(ngrams / count, 4)
    scores = (round(value, 5) for value in (metrics.auc, metrics.logloss, best))
    return Row(arm.name, arm.amplify, arm.dim, arm.merge, seed, rows, count, share, *scores)


def read(table: Path) -> list[Row]:
    return read_rows(table, Row)


def page(rows: list[Row]) -> Iterator[str]:
    """Lines of the tables."""
    best = rows[0].best_auc
    yield (
        f"{DATA.requests:,} training requests of {DATA.length} events, {DATA.candidates} candidates, {DATA.ids} ids; "
        f"about {PARAMETERS:,} parameters; best reachable AUC {best:.4f}. Mean and standard deviation over seeds."
    )
    yield from ("", "## Orders, heads, amplification", "")
    yield f"Rows of {WIDTH} numbers in the arms of n-grams."
    yield from ("", "| arm | amplify | rows of a sub-table | share of n-grams | AUC | logloss | seeds |")
    yield "|---|---|---|---|---|---|---|"
    for arm in [*dict.fromkeys((row.name, row.amplify) for row in rows)]:
        dims = None if arm[0] == WIDER else WIDTH
        yield _line(arm, [r for r in rows if (r.name, r.amplify) == arm and r.merge == 1 and r.dim == (dims or r.dim)])
    yield from ("", "## Share of the parameters (N3K2, layer_norm)", "")
    yield from (
        "| width of a row | rows of a sub-table | share of n-grams | AUC | logloss | seeds |",
        "|---|---|---|---|---|---|",
    )
    for dim in SHARE_WIDTHS:
        found = [r for r in rows if (r.name, r.amplify, r.merge, r.dim) == ("N3K2", "layer_norm", 1, dim)]
        if found:
            yield f"| {dim} | {found[0].rows:,} | {found[0].share:.0%} | {_scores(found)} |"
    yield from ("", "## Merging and InnerTrans", "", "| arm | merge | InnerTrans | AUC | logloss | seeds |")
    yield "|---|---|---|---|---|---|"
    for name, amplify in ((WIDER, "none"), ("N3K2", "layer_norm")):
        for merge in (1, MERGED):
            found = [r for r in rows if (r.name, r.amplify, r.merge) == (name, amplify, merge)]
            found = [r for r in found if name == WIDER or r.dim == WIDTH]
            if found:
                yield f"| {name} | {merge} | {'on' if merge > 1 else 'off'} | {_scores(found)} |"


def _line(arm: tuple[str, str], rows: list[Row]) -> str:
    return f"| {arm[0]} | {arm[1]} | {rows[0].rows:,} | {rows[0].share:.0%} | {_scores(rows)} |"


def _scores(rows: list[Row]) -> str:
    def spread(values: list[float]) -> str:
        return f"{mean(values):.4f} +- {stdev(values) if len(values) > 1 else 0:.4f}"

    return f"{spread([r.auc for r in rows])} | {spread([r.logloss for r in rows])} | {len(rows)}"
