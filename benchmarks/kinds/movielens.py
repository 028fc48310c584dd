"""What numbers and the time of day are worth on MovieLens 100K (movielens.yaml) and 1M (movielens_1m.yaml)."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.kinds.arms import BASE, CYCLIC, Arm
from benchmarks.kinds.runs import Row, arms_table, run_arms
from dist_rec.common.choices import Encoding
from dist_rec.common.strict import Strict
from dist_rec.data.build.build import build_dataset, load_build
from dist_rec.data.importers import MovieLens
from dist_rec.data.importers.source import read_fields, read_text

BUILD, BUILD_1M = (Path(__file__).with_name(name) for name in ("movielens.yaml", "movielens_1m.yaml"))
FILES = ("ml-100k.inter", "ml-100k.user", "ml-100k.item")
NUMBERS = {
    "age of the user": "context.age",
    "year of the film": "attributes.item.year",
    "ratings of the film so far": "candidate.seen",
}
ENCODINGS: tuple[Encoding, ...] = ("value", "buckets", "piecewise")
ARMS = {BASE: Arm()}
ARMS |= {
    f"numbers and times, {encoding}": Arm((*NUMBERS.values(), CYCLIC), dict.fromkeys(NUMBERS.values(), encoding))
    for encoding in ENCODINGS
}
ARMS |= {f"{words}, piecewise": Arm((name,)) for words, name in NUMBERS.items()} | {"time of day": Arm((CYCLIC,))}

RECIPE: dict[str, Any] = {
    "data": {"batch_size": 128, "eval_batch_size": 512, "max_length": 32},
    "model": {
        "tokens": {"width": 16, "hidden": 32},
        "longer": {"merge": 2, "k": 16, "heads": 2, "dropout": 0.2},
        "head": {"hidden": [64], "dropout": 0.3},
    },
    "embedding": {"dim": 16, "lr": 0.1},
    "optim": {"dense_update": "sync", "lr": 0.002, "warmup_steps": 50},
    "run": {"epochs": 1},
}


def run_movielens(table: Path, data: Path, seeds: Iterable[int], *, of_1m: bool = False) -> None:
    """Appends the runs that the table lacks. `data`: the folder with the files, plain or as .xz."""
    with TemporaryDirectory() as place:
        source = (build_movielens_1m if of_1m else build_movielens)(data, Path(place))
        for seed in seeds:
            run_arms(table, source, ARMS, RECIPE, seed)


def build_movielens(data: Path, place: Path) -> Path:
    """The folder of the dataset, inside `place`.

    Raises DataError for a file that is missing or not what it should be."""
    for name in FILES:
        (place / name).write_text("\n".join(read_text(data, name)[1]) + "\n")
    build_dataset(load_build(BUILD), place / "built", folder=place, threads=1)
    return place / "built"


def build_movielens_1m(data: Path, place: Path) -> Path:
    """As `build_movielens`, of ml-1m. A film's year is the one in its title."""
    tables = MovieLens(Strict()).parsed(data).tables
    titles = read_fields(data, "movies.dat", "::", 3, encoding="iso-8859-1").column(1)
    years = pa.array([int(title.rstrip()[-5:-1]) for title in titles])
    tables = {**tables, "movies": tables["movies"].append_column("year", years)}
    for name, table in tables.items():
        pq.write_table(table, place / f"{name}.parquet")
    build_dataset(load_build(BUILD_1M), place / "built", folder=place, threads=1)
    return place / "built"


def page(rows: list[Row], name: str = "ml-100k") -> Iterator[str]:
    """Lines."""
    yield (
        f"{name}: is the rating 4 or more? LONGER with the newest 32 events before the request; one pass over the "
        "first 80 % of all ratings by time, and the last 10 % are the test. Ids, in all arms: film, its genres, gender "
        "and occupation of the user, ratings of the history. Users have no id: most in the test are new. Means over "
        "seeds of one split; ± is the standard deviation, of a difference that of the pairs."
    )
    yield ""
    yield from arms_table(rows, ARMS)
