"""Flat logs of given sizes, whose values mean nothing: written a part at a time, so that they may be larger than
memory."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

EVENTS_PER_FILE = 5_000_000
DAYS, SECONDS = 30, 86_400
START = 1_700_000_000
ITEMS, CATEGORIES, PAGE = 100_000, 200, 5
BUILD = """
name: log
sources: {{events: "events_*.{kind}", impressions: "impressions.{kind}", items: items.csv}}
attributes: {{items: {{key: item_id, of: item}}}}
histories: {histories}
sequences:
  history:
    source: events
    user: user_id
    time: ts
    ids: {{item: item_id, category: items.category}}
    side: {{action: type}}
requests:
  source: impressions
  user: user_id
  time: ts
  order: [position]
  context: {{user: user_id}}
  ids: {{item: item_id, category: items.category}}
  labels: {{click: click}}
"""


@dataclass(frozen=True)
class LogSize:
    events: int
    impressions: int
    users: int
    kind: str = "csv"  # or parquet


def write_logs(folder: Path, size: LogSize, *, histories: str = "copies", seed: int = 0) -> Path:
    """The path of the build file. Impressions are pages of five in the last 27 of 30 days."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    for number, start in enumerate(range(0, size.events, EVENTS_PER_FILE)):
        count = min(EVENTS_PER_FILE, size.events - start)
        _write(
            folder / f"events_{number:03d}.{size.kind}",
            pa.table(
                {
                    "user_id": rng.integers(0, size.users, count),
                    "item_id": rng.zipf(1.2, count) % ITEMS,
                    "type": np.array(["view", "cart", "buy"])[rng.integers(0, 3, count)],
                    "ts": START + rng.integers(0, DAYS * SECONDS, count),
                    "price": rng.random(count).round(2),
                }
            ),
        )
    pages = size.impressions // PAGE
    user, time = rng.integers(0, size.users, pages), START + rng.integers(3 * SECONDS, DAYS * SECONDS, pages)
    _write(
        folder / f"impressions.{size.kind}",
        pa.table(
            {
                "user_id": np.repeat(user, PAGE),
                "item_id": rng.zipf(1.2, pages * PAGE) % ITEMS,
                "ts": np.repeat(time, PAGE),
                "position": np.tile(np.arange(PAGE), pages),
                "click": (rng.random(pages * PAGE) < 0.2).astype(np.int64),
            }
        ),
    )
    items = np.arange(ITEMS)
    pa_csv.write_csv(pa.table({"item_id": items, "category": items % CATEGORIES}), folder / "items.csv")
    path = folder / f"build_{histories}.yaml"
    path.write_text(BUILD.format(kind=size.kind, histories=histories))
    return path


def _write(path: Path, table: pa.Table) -> None:
    if path.suffix == ".csv":
        pa_csv.write_csv(table, path)
    else:
        pq.write_table(table, path)
