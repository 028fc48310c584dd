"""The data of the study: a part of the training split of generated data, with its own feedback or that of others."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.data.columns import list_column, ragged_values, scalar_values
from dist_rec.data.schema_file import load_schema
from dist_rec.data.synthetic.delayed import DelayedConfig, synthesize_delayed
from dist_rec.data.synthetic.parts import DAY_SECONDS
from dist_rec.data.writer import write_schema, write_split

IMMATURE = 10  # rows that are not final for each one that is
CANDIDATES = 8
MOST_LABELS = 30_000
HORIZON_DAYS = 7.0
HORIZONS = 3  # of the training split. In the first one histories are short; labels are from the second
EVALUATED = 1_000  # requests of validation; test has three times as many


def write_world(folder: Path, seed: int, shown: float) -> Path:
    """The whole of the generated data of a seed; its validation and test splits serve all budgets. `shown`: how much
    feedback tells of what a server knows anyway."""
    of_last_horizon = MOST_LABELS * IMMATURE / CANDIDATES
    config = DelayedConfig.model_validate(
        {
            "requests": int(1.05 * HORIZONS * of_last_horizon / 0.8),
            "candidates": CANDIDATES,
            "items": 120,
            "categories": 8,
            "max_length": 60,
            "mean_length": 40,
            "days": HORIZONS * HORIZON_DAYS,
            "horizon_days": HORIZON_DAYS,
            "shown": shown,
            "seed": seed,
        }
    )
    if not folder.is_dir():
        synthesize_delayed(folder, config)
    return folder


def write_budget(world: Path, folder: Path, labels: int, seed: int, *, shuffled: bool = False) -> int:
    """A dataset with about `labels` candidates whose label is final, and the moment of its training."""
    schema, rng = load_schema(world), np.random.default_rng(seed)
    whole = pq.read_table(world / "train")
    time = scalar_values(whole, "time").astype(np.int64)
    now = int(time.max())
    age = (now - time) / (HORIZON_DAYS * DAY_SECONDS)
    final, immature = (np.flatnonzero((low <= age) & (age < low + 1)) for low in (1, 0))
    wanted = round(labels / CANDIDATES)
    chosen = [rng.choice(final, wanted, replace=False), rng.choice(immature, IMMATURE * wanted, replace=False)]
    train = whole.take(np.sort(np.concatenate(chosen)))
    write_schema(folder, schema)
    write_split(folder / "train", _shuffled(train, rng) if shuffled else train, schema)
    for split, requests in (("valid", EVALUATED), ("test", 3 * EVALUATED)):
        write_split(folder / split, pq.read_table(world / split).slice(0, requests), schema)
    return now


def _shuffled(table: pa.Table, rng: np.random.Generator) -> pa.Table:
    """Every candidate with the feedback of another one of the whole split, as long after its own request."""
    counts = ragged_values(table, "candidate.feedback_events")
    donor = rng.permutation(len(counts.values))
    request = np.repeat(np.arange(table.num_rows), counts.lengths)
    now = scalar_values(table, "time").astype(np.int64)
    first = np.cumsum(counts.values) - counts.values
    given = counts.values[donor]
    event = np.repeat(first[donor] - np.cumsum(given) + given, given) + np.arange(given.sum())
    lengths = np.bincount(request, given, table.num_rows).astype(np.int64)
    owner = np.repeat(np.arange(len(given)), given)
    changed = {"candidate.feedback_events": list_column(counts.lengths, given)}
    for name in (name for name in table.column_names if name.startswith("feedback.")):
        values = ragged_values(table, name).values[event]
        if name == "feedback.time":
            values = values - now[request[donor[owner]]] + now[request[owner]]
        changed[name] = list_column(lengths, values)
    for name, column in changed.items():
        place = table.schema.get_field_index(name)
        table = table.set_column(place, table.schema.field(place), column.cast(table.schema.field(place).type))
    return table
