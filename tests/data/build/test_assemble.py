from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from dist_rec.config import load_config
from dist_rec.data.build import assemble
from dist_rec.data.schema_file import load_schema
from dist_rec.door import check_run
from tests.data.build.small import START, build, built, compared, config, write_csv

EVENTS = [
    {"user": user, "item": n % 7, "time": START - 40 + n, "kind": "a", "order": 0} for n in range(30) for user in (1, 2)
]
SHOWN = [
    {"user": 1 + n % 2, "item": n % 5, "time": START + n % 30, "page": n, "place": n % 3, "click": int(n % 4 == 0)}
    for n in range(90)
]


def test_the_size_of_what_is_read_at_once_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = built(build(tmp_path / "x", config(), EVENTS, SHOWN), list(range(99)))
    monkeypatch.setattr(assemble, "ROWS_AT_ONCE", 7)
    assert compared(built(build(tmp_path / "y", config(), EVENTS, SHOWN), list(range(99)))) == compared(whole)


def test_many_candidates_are_cut_in_two(tmp_path: Path) -> None:
    out = build(
        tmp_path / "x", config(requests={"most": 2}), EVENTS, SHOWN + [{**SHOWN[0], "place": p} for p in (4, 5)]
    )
    lengths = [len(row) for row in pq.read_table(out / "train").column("candidate.item").to_pylist()]
    assert max(lengths) == 2 and sum(lengths) == 62


def negatives(folder: Path, **of: Any) -> dict[str, list]:
    folder.mkdir()
    write_csv(folder / "items.csv", [{"id": n, "brand": n % 2} for n in range(7)])
    tree = config(
        sources={"events": "events.csv", "shown": "shown.csv", "items": "items.csv"},
        attributes={"items": {"key": "id", "of": "item"}},
        requests={"ids": {"item": "item", "brand": "items.brand"}, "negatives": of, "labels": {"click": "click"}},
    )
    tree["sequences"]["history"]["ids"]["brand"] = "items.brand"
    shown = SHOWN if of["sample"] == "page" else [{**row, "click": 1} for row in SHOWN]
    return pq.read_table(build(folder, tree, EVENTS, shown) / "train").to_pydict()


@pytest.mark.parametrize("sample", ["uniform", "popularity"])
def test_sampled_candidates_come_with_what_belongs_to_them_and_in_no_order(tmp_path: Path, sample: str) -> None:
    found = negatives(tmp_path / "x", sample=sample, count=2)
    events = zip(found["history.item"], found["history.brand"], strict=True)
    brands = dict(pair for items, own in events for pair in zip(items, own, strict=True))
    first = []
    for row, labels in enumerate(found["candidate.click"]):
        items, own = found["candidate.item"][row], found["candidate.brand"][row]
        zeros = [item for item, label in zip(items, labels, strict=True) if not label]
        assert len(set(zeros)) == 2 and not {i for i, label in zip(items, labels, strict=True) if label} & set(zeros)
        assert own == [brands[item] for item in items]
        first.append(labels[0])
    assert 0 < sum(first) < len(first), "the place of a candidate tells nothing"


def test_what_training_does_not_know_is_sampled_too(tmp_path: Path) -> None:
    """Or its number would tell a candidate of its own from a sampled one."""
    tree = config(
        requests={"negatives": {"sample": "uniform", "count": 3}, "labels": {"click": "click"}},
        tables={"item": {"min_count": 40}},
    )
    shown = [{**row, "click": 1} for row in SHOWN]
    found = pq.read_table(build(tmp_path / "x", tree, EVENTS, shown) / "test").to_pydict()
    zeros = [
        item
        for items, labels in zip(found["candidate.item"], found["candidate.click"], strict=True)
        for item, label in zip(items, labels, strict=True)
        if not label
    ]
    assert 0 in zeros


def test_negatives_do_not_depend_on_other_requests(tmp_path: Path) -> None:
    tree = config(requests={"negatives": {"sample": "uniform", "count": 2}, "labels": {"click": "click"}})
    shown = [{**row, "click": 1} for row in SHOWN]
    more = [{**shown[0], "user": 1, "time": START - 5, "item": 0}, *shown]
    tables = [
        pq.read_table(build(tmp_path / name, tree, EVENTS, rows) / "test").to_pydict()
        for name, rows in (("x", shown), ("y", more))
    ]
    assert tables[0]["candidate.item"] == tables[1]["candidate.item"]


def test_candidates_of_a_page_are_kept_where_they_are_one(tmp_path: Path) -> None:
    found = negatives(tmp_path / "x", sample="page", keep=0.2)
    labels = [label for row in found["candidate.click"] for label in row]
    whole = [row["click"] for row in SHOWN if row["time"] < START + 20]
    assert sum(labels) == sum(whole) and 0 < labels.count(0) < whole.count(0) / 2


def test_every_time_the_same_bytes(tmp_path: Path) -> None:
    first, second = (build(tmp_path / name, config(), EVENTS, SHOWN) for name in ("x", "y"))
    for path in sorted(first.rglob("*")):
        if path.is_file() and path.name not in ("recipe.yaml", ".dist_rec.json"):
            assert path.read_bytes() == (second / path.relative_to(first)).read_bytes(), path


@pytest.mark.parametrize("histories", ["copies", "once"])
def test_a_label_at_every_event(tmp_path: Path, histories: str) -> None:
    """Candidates see what was `delay` before their own time, in order of time, whatever the order of rows."""
    events = [{"user": 1, "item": n, "time": START + n, "kind": "a", "order": 0} for n in (0, 1, 2, 2, 9)]
    rows = [
        {"user": 1, "item": 50 + n, "time": START + n, "page": 0, "place": 0, "click": n % 2, "folder": "train"}
        for n in (5, 3, 2, 0)
    ]
    requests = {"visible_events": True, "labels": {"click": "click"}}
    split = {"by": "column", "column": "folder"}
    tree = config(requests=requests, events={"times": False, "delay": 1}, split=split, histories=histories)
    out = build(tmp_path / "x", tree, events, rows)
    values = pq.read_table(out / "_build" / "item.parquet").sort_by("id").column("value").to_pylist()
    (found,) = built(out, ["other", *values])
    assert [item for item, *_ in found.events] == [0, 1, 2, 2] and found.candidates == [50, 52, 53, 55]
    assert found.visible == [0, 1, 2, 4] and found.clicks == [0, 0, 1, 1]
    schema = load_schema(out)
    assert schema.candidate.visible_events and schema.request.time is None and not schema.sequences[0].time
    check_run(load_config(out / "recipe.yaml"), None)
