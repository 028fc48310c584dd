"""What each kind of feature is worth where it is known: generated data of world.py."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.kinds.arms import BASE, Arm
from benchmarks.kinds.runs import Row, arms_table, run_arms
from benchmarks.kinds.world import KINDS, NEWEST, WorldConfig, write_world

WORDS = {
    "price": "number of the candidate: price",
    "paid": "number of events: price paid",
    "tags": "list of the item: tags",
    "vector": "vector of the item",
    "hour": "time of day",
}
KNOWN: dict[str, tuple[str, ...]] = (
    {BASE: ()} | {words: (kind,) for kind, words in WORDS.items()} | {"all": tuple(KINDS)}
)
ARMS = {name: Arm(tuple(KINDS[kind] for kind in kinds)) for name, kinds in KNOWN.items()}
for _kind in ("price", "paid"):
    for _encoding in ("value", "buckets"):
        _name = f"{WORDS[_kind]}, as {_encoding}"
        ARMS[_name], KNOWN[_name] = Arm((KINDS[_kind],), {KINDS[_kind]: _encoding}), (_kind,)

RECIPE: dict[str, Any] = {
    "data": {"batch_size": 64, "eval_batch_size": 512},
    "model": {
        "tokens": {"width": 16, "hidden": 32, "max_positions": 16},
        "longer": {"merge": 1, "inner_trans": False, "k": 8, "heads": 2, "self_layers": 0},
        "head": {"hidden": [32]},
    },
    "embedding": {"dim": 8, "lr": 0.05},
    "optim": {"dense_update": "sync", "optimizer": "adamw", "lr": 0.003, "warmup_steps": 20},
    "run": {"epochs": 1},
}


def run_planted(table: Path, config: WorldConfig, seeds: Iterable[int]) -> None:
    """Appends the runs that the table lacks; every seed has data of its own, the same for all arms."""
    for seed in seeds:
        with TemporaryDirectory() as place:
            truth = write_world(Path(place) / "world", replace(config, seed=seed))
            best = {name: truth.best_auc(kinds) for name, kinds in KNOWN.items()}
            run_arms(table, Path(place) / "world", ARMS, RECIPE, seed, best)


def page(rows: list[Row], config: WorldConfig) -> Iterator[str]:
    """Lines."""
    yield (
        f"LONGER, one pass over {config.train:,} requests with {config.candidates} candidates and {config.length} "
        f"events; {config.test:,} requests of test. The logit of a click is a term of the category, which all arms "
        "have, and one of the same spread for each kind: a bump over the price of the candidate; the mean log of the "
        f"price paid in the newest {NEWEST} events; the mean weight of the item's tags; a direction of its vector; a "
        "cosine over the day. Candidates of the test are new items. Numbers are on a log scale, and piecewise where "
        "nothing else is said. To be won is the best AUC with the kind less the best without. Means over paired "
        "seeds; ± is the standard deviation, of a difference that of the pairs."
    )
    yield ""
    yield from arms_table(rows, ARMS)
