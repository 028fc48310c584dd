"""Small data sets for the recipes, generated: the synthetic ones, and files as the importers read them, drawn from a
seed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from dist_rec.data.importers.assist import Assist
from dist_rec.data.importers.built import BuiltOptions
from dist_rec.data.importers.movielens import MovieLens
from dist_rec.data.synthetic.delayed import DelayedConfig, synthesize_delayed
from dist_rec.data.synthetic.history import SynthConfig, synthesize
from dist_rec.data.synthetic.three import ThreeConfig, synthesize_three

FOLDS = range(1, 6)
ROWS_PER_GROUP = 4
SPEECH = ("clerk", "nurse", "writer", "other")


def make_set(name: str, folder: Path) -> Path:
    """Makes the set that a recipe names, such as `ml-100k` for `data/ml-100k`; returns its dataset folder."""
    SETS[name](folder)
    for path in (folder / "out").rglob("*.parquet"):
        # Several row groups in every split: ranks share a split by its row groups.
        pq.write_table(pq.read_table(path), path, row_group_size=ROWS_PER_GROUP)
    return folder / "out"


def _quickstart(folder: Path) -> None:
    config = SynthConfig(requests=200, max_length=40, mean_length=16, items=300)
    synthesize(folder / "out", config)


def _forget(folder: Path) -> None:
    config = SynthConfig(requests=200, max_length=40, mean_length=16, items=300, forget_share=0.2)
    synthesize(folder / "out", config)


def _three(folder: Path) -> None:
    config = ThreeConfig(requests=200, max_length=40, mean_length=16, items=120)
    synthesize_three(folder / "out", config)


def _delayed(folder: Path) -> None:
    """At the recipe's moment of training: the time of its requests does not depend on their number."""
    options = {"requests": 200, "max_length": 40, "mean_length": 16, "shown": 1, "days": 8}
    synthesize_delayed(folder / "out", DelayedConfig.model_validate(options))


def _ml_100k(folder: Path) -> None:
    rng = np.random.default_rng(1)
    ratings = [
        f"{user}\t{item}\t{rng.integers(1, 6)}\t{time}"
        for user in range(1, 25)
        for item, time in zip(rng.permutation(60)[:12] + 1, np.cumsum(rng.integers(0, 90, 12)))
    ]
    _write(folder / "raw" / "ml-100k.inter", ["user_id\titem_id\trating\ttimestamp", *ratings])
    users = [
        f"{user}\t{18 + user % 40}\t{'MF'[user % 2]}\t{SPEECH[user % 4]}\t{10_000 + 999 * user}"
        for user in range(1, 25)
    ]
    _write(folder / "raw" / "ml-100k.user", ["user_id\tage\tgender\toccupation\tzip_code", *users])
    movies = [f"{item}\tA\t1995\tgenre {item % 5}" for item in range(1, 61)]
    _write(folder / "raw" / "ml-100k.item", ["item_id\tmovie_title\trelease_year\tclass", *movies])
    MovieLens(BuiltOptions())(folder / "raw", folder / "out")


def _ml_1m(folder: Path) -> None:
    """A third of the interactions has a rating and a time."""
    rng = np.random.default_rng(2)
    seen = {user: rng.permutation(80)[:30] + 1 for user in range(1, 21)}
    pairs = [(user, item) for user, items in seen.items() for item in items]
    _write(folder / "raw" / "interactions_all_but_last.csv", [f"{u}-1-1-1,{i}-9" for u, i in pairs if i != seen[u][-1]])
    _write(folder / "raw" / "interactions_last.csv", [f"{user}-1-1-1,{items[-1]}-9" for user, items in seen.items()])
    rated = [(user, item, 100 * place) for place, (user, item) in enumerate(pairs) if rng.random() < 1 / 3]
    ratings = [f"{user}::{item}::{rng.integers(1, 6)}::{time}" for user, item, time in rated]
    _write(folder / "raw" / "ratings_sample_100k.dat", ratings)
    users = [f"{user}::{'FM'[user % 2]}::{user % 7}::{user % 5}::{10_000 + 999 * user}" for user in range(1, 21)]
    _write(folder / "raw" / "users.dat", users)
    _write(folder / "raw" / "movies.dat", [f"{item}::A (1995)::genre {item % 5}" for item in range(1, 81)])
    MovieLens(BuiltOptions())(folder / "raw", folder / "out")


def _statics(folder: Path) -> None:
    rng = np.random.default_rng(3)
    for fold in FOLDS:
        lines = [line for _ in range(5) for line in _learner(rng, 1)]
        _write(folder / "raw" / f"statics_test{fold}.csv", lines)
    Assist(BuiltOptions())(folder / "raw", folder / "out")


def _assist(folder: Path) -> None:
    rng = np.random.default_rng(4)
    for fold in FOLDS:
        lines = [line for _ in range(12) for line in _learner(rng, 2)]
        _write(folder / "raw" / f"assist2009_pid_test{fold}.csv", lines)
    Assist(BuiltOptions())(folder / "raw", folder / "out")


def _learner(rng: np.random.Generator, fields: int) -> list[str]:
    """The lines of one learner: a head, one line for each field, the answers."""
    length = int(rng.integers(5, 20))
    columns = [rng.integers(0, 30, length) for _ in range(fields)] + [rng.integers(0, 2, length)]
    return [str(length), *(",".join(map(str, column)) for column in columns)]


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


SETS: dict[str, Callable[[Path], None]] = {
    "quickstart": _quickstart,
    "forget": _forget,
    "three": _three,
    "delayed": _delayed,
    "ml-100k": _ml_100k,
    "ml-1m": _ml_1m,
    "statics2011": _statics,
    "assist2009": _assist,
}
