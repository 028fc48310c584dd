"""The same world as history.py's, as a service would log it: flat files, and the build file that makes requests of
them.

Events are in order of time over all users, in CSV files of their own days of the log; users are text, items whole
numbers; events have milliseconds, impressions have text as their time. What is built of them has the planted truth of
stats.json."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from dist_rec.data.columns import Ints, ragged_values, scalar_values
from dist_rec.data.errors import writing
from dist_rec.data.synthetic.history import HistoryTally, SynthConfig, Truth, plant
from dist_rec.data.synthetic.parts import ACTIONS, Timelines
from dist_rec.data.writer import split_in_order, staged

FLAT_LOG = "flat log"  # what the project made there
EVENTS_PER_FILE = 1_000_000
BUILD_FILE = "build.yaml"
BUILD = """# dist-rec data build {file}
name: {name}
sources:
  events: events/*.csv
  impressions: impressions.csv
  items: items.csv
  users: users.csv
attributes:
  items: {{key: item_id, of: item}}
  users: {{key: user_id, of: user}}
sequences:
  history:
    source: events
    user: user_id
    time: ts_ms
    ids: {{item: item_id, category: items.category}}
    side: {{action: {{column: type, values: [{actions}]}}}}
requests:
  source: impressions
  user: user_id
  time: shown_at
  page: page_id
  order: [position]
  context: {{user: user_id, segment: users.segment}}
  ids: {{item: item_id, category: items.category}}
  labels: {{click: clicked}}
split: {{valid: 0.1, test: 0.1}}
feature_groups:
  user: [context.user, context.segment]
  item: [candidate.item]
  category: [candidate.category]
"""


def synthesize_flat(out: Path, config: SynthConfig, *, force: bool = False) -> dict[str, Any]:
    """Writes a folder of flat files with build.yaml and stats.json, and returns the content of stats.json, which is as
    `synthesize` has it, of the requests that the build file makes.

    Raises DataError if the folder cannot be written, or replaced (see `staged`)."""
    with staged(out, FLAT_LOG, force=force) as folder, writing(folder):
        requests, truth = plant(config, by_time=True)
        _write_events(folder / "events", truth.timelines)
        pa_csv.write_csv(_attributes("item_id", np.arange(config.items), "category", truth), folder / "items.csv")
        users = [f"u{user}" for user in range(config.num_users)]
        pa_csv.write_csv(_attributes("user_id", np.array(users), "segment", truth), folder / "users.csv")
        tallies: dict[str, HistoryTally] = {}
        with pa_csv.CSVWriter(folder / "impressions.csv", _impressions_schema()) as writer:
            page = 0
            for name, part in split_in_order(requests).items():
                tallies[name] = HistoryTally(config)
                for table in truth.tables(part):
                    writer.write_table(_impressions(tallies[name].add(table), page))
                    page += table.num_rows
        stats = {name: of.summary() for name, of in tallies.items()}
        stats["test"] |= tallies["test"].quality(tallies["train"])
        (folder / "stats.json").write_text(json.dumps(stats, indent=2) + "\n")
        text = BUILD.format(file=BUILD_FILE, name=out.name, actions=", ".join(ACTIONS))
        (folder / BUILD_FILE).write_text(text)
    return stats


def _write_events(folder: Path, timelines: Timelines) -> None:
    folder.mkdir()
    user = np.repeat(np.arange(len(timelines.offsets) - 1), np.diff(timelines.offsets))
    order = np.argsort(timelines.time, kind="stable")
    # Events of one user and second keep their order: a log knows parts of a second.
    within = _place_in_second(user, timelines.time)
    for number, part in enumerate(_pieces(order)):
        table = pa.table(
            {
                "user_id": [f"u{of}" for of in user[part].tolist()],
                "item_id": timelines.item[part],
                "type": np.array(ACTIONS)[timelines.action[part]],
                "ts_ms": timelines.time[part] * 1000 + within[part],
            }
        )
        pa_csv.write_csv(table, folder / f"part-{number:04d}.csv")


def _place_in_second(user: Ints, time: Ints) -> Ints:
    """(N,) how many events of the same user and second are before each one, 999 at most."""
    new = np.ones(len(user), bool)
    new[1:] = (np.diff(user) != 0) | (np.diff(time) != 0)
    index = np.arange(len(user))
    return np.minimum(index - np.maximum.accumulate(np.where(new, index, 0)), 999)


def _pieces(order: Ints) -> Iterator[Ints]:
    for start in range(0, max(1, len(order)), EVENTS_PER_FILE):
        yield order[start : start + EVENTS_PER_FILE]


def _attributes(key: str, ids: Any, name: str, truth: Truth) -> pa.Table:
    values = truth.segment if name == "segment" else truth.catalog.items.kind_of(np.arange(len(ids)))
    return pa.table({key: ids, name: values})


def _impressions_schema() -> pa.Schema:
    whole = dict.fromkeys(("page_id", "position", "item_id", "clicked"), pa.int64())
    types = {"user_id": pa.string(), "shown_at": pa.timestamp("s", "UTC"), **whole}
    return pa.schema([(name, types[name]) for name in ("user_id", "shown_at", *whole)])


def _impressions(table: pa.Table, first_page: int) -> pa.Table:
    item = ragged_values(table, "candidate.item")
    row = np.repeat(np.arange(table.num_rows), item.lengths)
    user, time = scalar_values(table, "user")[row], scalar_values(table, "time")[row]
    columns = {
        "user_id": [f"u{of}" for of in user.tolist()],
        "shown_at": time,
        "page_id": first_page + row,
        "position": np.arange(len(row)) - item.offsets[row],
        "item_id": item.values,
        "clicked": ragged_values(table, "candidate.click").values,
    }
    types = _impressions_schema()
    return pa.table([pa.array(columns[field.name]).cast(field.type) for field in types], schema=types)
