"""Small logs and the datasets that are built of them."""

import csv
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from dist_rec.data.build.build import build_dataset
from dist_rec.data.build.config import BuildConfig
from dist_rec.data.event_store import whole, with_place
from dist_rec.data.schema_file import load_schema
from tests.data.build.brute import Request, Row

START = 1_700_000_000
VALID, TEST = START + 20, START + 26
# One request for every split, whatever is drawn.
ANCHORS = [
    {"user": 9, "item": 0, "time": time, "page": page, "place": 0, "click": 0}
    for page, time in enumerate((START + 1, VALID + 1, TEST + 1))
]


def config(**changes: Any) -> dict[str, Any]:
    """Of events and shown rows with the columns of `brute`."""
    time = changes.pop("time", "time")
    events = changes.pop("events", {})
    requests = changes.pop("requests", {})
    later = {"source": "events", "user": "user", "time": time, "match": {"item": "item"}, "within": 10}
    return {
        "name": "small",
        "sources": {"events": "events.*", "shown": "shown.*"},
        "sequences": {
            "history": {
                "source": "events",
                "user": "user",
                "time": time,
                "order": ["order"],
                "ids": {"item": "item"},
                "side": {"kind": {"column": "kind", "values": ["a", "b"]}},
            }
            | events
        },
        "requests": {
            "source": "shown",
            "user": "user",
            "time": time,
            "order": ["place"],
            "ids": {"item": "item"},
            "labels": {"click": "click", "bought": later},
        }
        | requests,
        "split": {"valid": "2023-11-14T22:13:40Z", "test": "2023-11-14T22:13:46Z"},
    } | changes


def write_csv(path: Path, rows: list[Row]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]) if rows else ["user", "item", "time", "kind", "order"])
        writer.writeheader()
        writer.writerows(rows)


def build(folder: Path, tree: dict[str, Any], events: list[Row], shown: list[Row], kind: str = "csv") -> Path:
    """The dataset of these rows."""
    folder.mkdir(exist_ok=True)
    for name, rows in (("events", events), ("shown", shown)):
        for old in folder.glob(f"{name}.*"):
            old.unlink()
        if kind == "csv":
            write_csv(folder / f"{name}.csv", rows)
        else:
            empty = dict.fromkeys(("user", "item", "time", "kind", "order"), pa.array([], pa.int64()))
            empty["kind"] = pa.array([], pa.string())
            pq.write_table(pa.Table.from_pylist(rows) if rows else pa.table(empty), folder / f"{name}.parquet")
    build_dataset(
        BuildConfig.model_validate(tree), folder / "out", folder=folder, memory="500MB", threads=2, force=True
    )
    return folder / "out"


def built(out: Path, items: list[Any]) -> list[Request]:
    """The requests of a dataset with ids as they were; a time is 0, or None of an event, where the dataset has none."""
    found, schema = [], load_schema(out)
    for split in sorted(path.name for path in out.iterdir() if path.is_dir() and list(path.glob("part-*.parquet"))):
        for row in whole(with_place(pq.read_table(out / split), out), schema).to_pylist():
            kinds = ["ab"[kind] for kind in row["history.kind"]]
            times = row.get("history.time", [None] * len(kinds))
            events = zip([items[i] for i in row["history.item"]], kinds, times, strict=True)
            candidates = [items[i] for i in row["candidate.item"]]
            of_candidates = (row.get(f"candidate.{name}", []) for name in ("click", "bought", "visible_events"))
            t = row.get("time", 0)
            found.append(Request(split, row["user_key"], t, list(events), candidates, *of_candidates, began=0))
    return found


def compared(requests: list[Request]) -> list[tuple]:
    """Without when they began, which no dataset says."""
    return sorted(
        (of.split, of.t, of.user, of.events, of.candidates, of.clicks, of.bought, of.visible) for of in requests
    )
