import json
from pathlib import Path

from rich.console import Console

from dist_rec.common.strict import check
from dist_rec.data.build.build import build_dataset
from dist_rec.data.build.config import BuildConfig
from dist_rec.data.build.report import render
from tests.data.build.small import ANCHORS, START, config, write_csv

EVENTS = [
    {"user": user, "item": item, "time": START + at, "kind": "a", "order": 0}
    for user, item, at in ((9, 1, -3), (9, 2, -2), (9, "", -1), (8, 1, 0), (9, 7, 25))
]


def test_what_is_left_out_is_counted_by_its_reason(tmp_path: Path) -> None:
    write_csv(tmp_path / "events.csv", EVENTS)
    write_csv(tmp_path / "shown.csv", ANCHORS)
    tree = config(bad_rows="drop", events={"most": 1}, requests={"labels": {"click": "click"}})
    report = build_dataset(check(BuildConfig, tree, "here"), tmp_path / "out", folder=tmp_path)
    assert report.dropped == {
        "sequences.history: item: missing": 1,
        "sequences.history: of users without a request": 1,
        "events: older than the newest that are kept": 4,
    }
    assert report.read == {"requests": 3, "sequences.history": 5}
    assert report.unknown == {"history.item": 1 / 3, "candidate.item": 0.0}
    assert {name: (of.requests, of.events) for name, of in report.splits.items()} == {
        "train": (1, 1),
        "valid": (1, 1),
        "test": (1, 1),
    }
    assert json.loads((tmp_path / "out" / "_build" / "report.json").read_text()) == json.loads(
        json.dumps(report.tree())
    )
    console = Console(width=100, record=True)
    console.print(render(report))
    text = console.export_text()
    for told in ("small: requests", "history.item", "33.33%", "of users without a request", "valid from 2023-11-14"):
        assert told in text
