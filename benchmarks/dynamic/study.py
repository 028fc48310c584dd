"""Progressive validation: every window is scored before it is trained on, by tables that hold ids in different ways.

Every row of the CSV is one window of one arm and seed."""

import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from math import isnan, nan
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks.dynamic.stream import StreamConfig, contents, ids_of, schema_of, windows
from benchmarks.tables import append, read_rows
from dist_rec.common.open_ids import IdKind
from dist_rec.config import Config
from dist_rec.data.attribute_store import AttributeStore, open_attributes, write_attributes
from dist_rec.data.collate import Collator
from dist_rec.data.host_batch import HostBatch
from dist_rec.data.schema import Schema
from dist_rec.embedding.id_use import IdMeter
from dist_rec.training.evaluate import evaluate
from dist_rec.training.pipeline import make_optimizer, make_pipeline, plan_model, run_through, shard_model
from dist_rec.training.ranks import Ranks, start_ranks

BATCH, SHARE = 64, 0.2  # requests of a batch; rows of the small tables, as a share of all items
STARTED = 8  # windows before the means: tables are filled and items have begun to go


@dataclass(frozen=True)
class Arm:
    """Kind of ids, share of all items that the table has rows for, options of the table, and whether the content of
    items is known."""

    kind: IdKind
    share: float = SHARE
    options: dict[str, Any] = field(default_factory=dict)
    content: bool = False


ARMS = {
    "full": Arm("range", 1.0),
    "dynamic lru": Arm("dynamic"),
    "hashed": Arm("hashed"),
    "dynamic lfu": Arm("dynamic", options={"eviction": {"policy": "lfu"}}),
    "dynamic lru, admission 2": Arm("dynamic", options={"admission": {"count": 2}}),
    "hashed, all rows": Arm("hashed", 1.0),
    "full, content": Arm("range", 1.0, content=True),
    "dynamic lru, content": Arm("dynamic", content=True),
    "hashed, content": Arm("hashed", content=True),
}
DEFAULT = ("full", "dynamic lru", "hashed")


@dataclass(frozen=True)
class Row:
    """One window before it was trained on; of its training the share of distinct ids of batches that had a row, NaN
    where ids are not dynamic."""

    arm: str
    seed: int
    window: int
    rows: int
    auc: float
    best_auc: float
    ne: float
    hit: float


def config_of(arm: str, seed: int) -> Config:
    return Config.model_validate(
        {
            "data": {"path": "unused", "batch_size": BATCH, "workers": 0},
            "model": {"name": "din", "tokens": {"width": 16, "hidden": 32}, "head": {"hidden": [32]}},
            "embedding": {"dim": 8, "lr": 0.1, "tables": {"item": ARMS[arm].options}},
            "optim": {"dense_update": "sync", "lr": 2e-3, "decay": "none"},
            "run": {"seed": seed},
        }
    )


def run_study(table: Path, stream: StreamConfig, arms: Iterable[str] = DEFAULT, seeds: Iterable[int] = (1,)) -> None:
    """Appends the arms that the table lacks, seed after seed."""
    done = {(row.arm, row.seed, row.window) for row in read(table)}
    with start_ranks(config_of("full", 1).parallel) as ranks:
        for seed in seeds:
            for arm in arms:
                if (arm, seed, stream.windows - 1) not in done:
                    for row in list(trained(arm, replace(stream, seed=seed), ranks)):
                        append(table, row)


def trained(arm: str, stream: StreamConfig, ranks: Ranks) -> Iterator[Row]:
    config, of = config_of(arm, stream.seed), ARMS[arm]
    schema = schema_of(round(of.share * stream.items), of.kind, content=of.content)
    torch.manual_seed(stream.seed)
    model, plan = plan_model(schema, config, ranks)
    dmp = shard_model(model, plan, config, ranks)
    optimizer = make_optimizer(dmp, config.optim, 1, ranks)
    pipeline = make_pipeline(dmp, optimizer, config.embedding, ranks.device)
    meter = IdMeter(dmp, ranks.total)
    with tempfile.TemporaryDirectory() as folder:
        collator = Collator(schema, attributes=_content(Path(folder), stream, schema) if of.content else None)
        for number, requests in enumerate(windows(stream, schema)):
            loader: Any = batches(requests, collator)
            scored = evaluate(dmp, loader, ["click"], ranks)["click"]
            for _ in run_through(pipeline, iter(batches(requests, collator))):
                pass
            use = meter.since_last().get("item")
            scores = (round(float(value), 5) for value in (scored.auc, scored.best_auc or 0.0, scored.ne))
            hit = nan if use is None else round(use.shares()["hit"], 4)
            yield Row(arm, stream.seed, number, schema.tables["item"], *scores, hit)


def _content(folder: Path, stream: StreamConfig, schema: Schema) -> AttributeStore | None:
    """The content of all items, also of those that are still to come."""
    ids = ids_of(np.arange(stream.items), schema)
    write_attributes(folder, schema, "item", {"content": contents(stream)}, ids if schema.open_ids else None)
    return open_attributes(folder, schema)


def batches(requests: pa.Table, collator: Collator) -> list[HostBatch]:
    """In the order of the stream."""
    starts = range(0, requests.num_rows, BATCH)
    parts = [np.arange(start, min(start + BATCH, requests.num_rows)) for start in starts]
    found = [collator(requests, part) for part in parts]
    for batch in found:
        batch.set_candidates_per_rank(batch.num_targets)
    return found


def read(table: Path) -> list[Row]:
    return read_rows(table, Row)


def page(rows: list[Row], stream: StreamConfig) -> Iterator[str]:
    """Lines of the tables."""
    started = min(STARTED, stream.windows - 1)
    yield (
        f"{stream.windows} windows of {stream.requests:,} requests with {stream.candidates} candidates and "
        f"{stream.length} events; {stream.active:,} items at a time, {stream.new:.0%} of them new in each window, "
        f"{stream.items:,} in all. Every window is scored before it is trained on. Means over windows {started} to "
        f"{stream.windows - 1}; the spread is the standard deviation over seeds."
    )
    yield from ("", "| table of items | rows | AUC | NE | best reachable AUC | hits | seeds |")
    yield "|---|---|---|---|---|---|---|"
    for arm in dict.fromkeys(row.arm for row in rows):
        of = [row for row in rows if row.arm == arm and row.window >= started]
        hit = _mean(of, "hit")
        yield (
            f"| {arm} | {of[0].rows:,} | {_told(of, 'auc')} | {_told(of, 'ne')} | {_told(of, 'best_auc')} | "
            f"{'' if isnan(hit) else f'{hit:.1%}'} | {len({row.seed for row in of})} |"
        )
    arms = list(dict.fromkeys(row.arm for row in rows))
    yield from (
        "",
        "AUC by window, mean over seeds:",
        "",
        f"| window | {' | '.join(arms)} |",
        "|---" * (len(arms) + 1) + "|",
    )
    for window in sorted({row.window for row in rows}):
        of_arms = ([row for row in rows if (row.arm, row.window) == (arm, window)] for arm in arms)
        yield f"| {window} | " + " | ".join(f"{_mean(of, 'auc'):.4f}" if of else "" for of in of_arms) + " |"


def _mean(rows: list[Row], name: str) -> float:
    return mean(getattr(row, name) for row in rows)


def _told(rows: list[Row], name: str) -> str:
    of_seeds = [_mean([row for row in rows if row.seed == seed], name) for seed in sorted({row.seed for row in rows})]
    spread = f" ± {stdev(of_seeds):.4f}" if len(of_seeds) > 1 else ""
    return f"{mean(of_seeds):.4f}{spread}"
