from collections import Counter
from pathlib import Path

import numpy as np

from dist_rec.data.survey.facts import facts_of, over_time
from dist_rec.data.writer import write_split
from tests.data.requests import make_rows, make_schema, make_table


def split(folder: Path, rows: list, schema=None) -> Path:
    write_split(folder, make_table(rows, schema), schema or make_schema(), rows_per_group=7)
    return folder


def test_counts_by_hand(tmp_path: Path) -> None:
    rows = make_rows(40)
    rows[3]["time"] = 2_000
    found = facts_of(split(tmp_path / "train", rows), make_schema())
    assert found.name == "train" and found.groups.tolist() == list(range(40))
    assert found.lengths["searches"].tolist() == [len(row["searches.query"]) for row in rows]
    assert found.candidates.tolist() == [len(row["candidate.item"]) for row in rows]
    for name in ("history.item", "history.page", "candidate.kind"):
        wanted = Counter(value for row in rows for value in row[name])
        assert {value: count for value, count in enumerate(found.counts[name].tolist()) if count} == dict(wanted)
    assert found.counts["context.user"].sum() == 40
    assert found.ones[:, 0].tolist() == [sum(row["candidate.click"]) for row in rows]
    assert found.defined.sum() == 2 * found.candidates.sum()
    ages = [row["time"] - time for row in rows for time in row["history.time"]]
    buckets = Counter(int(2 * np.log2(age + 1.0)) for age in ages)
    assert {at: count for at, count in enumerate(found.ages["history"].tolist()) if count} == dict(buckets)
    assert found.at_once == 0


def test_labels_count_where_they_are_given(tmp_path: Path) -> None:
    schema = make_schema(candidate={"ids": ["item", "kind"], "labels": ["click", "buy"], "given": {"buy": "click"}})
    rows = make_rows(20)
    found = facts_of(split(tmp_path / "train", rows, schema), schema)
    assert found.defined[:, 1].tolist() == [sum(row["candidate.click"]) for row in rows]
    both = [sum(c and b for c, b in zip(row["candidate.click"], row["candidate.buy"], strict=True)) for row in rows]
    assert found.ones[:, 1].tolist() == both


def test_equal_requests_have_equal_hashes_and_others_not(tmp_path: Path) -> None:
    row = max(make_rows(30), key=lambda of: min(len(of["history.item"]), len(of["candidate.item"])))
    changed = {
        "item": {**row, "history.item": row["history.item"][::-1]},
        "candidate": {**row, "candidate.item": [(i + 1) % 50 for i in row["candidate.item"]]},
        "label": {**row, "candidate.click": [1 - label for label in row["candidate.click"]]},
        "time": {**row, "time": row["time"] + 1},
        "user": {**row, "user": row["user"] + 1},
    }
    assert row["history.item"] != row["history.item"][::-1]
    found = facts_of(split(tmp_path / "train", [row, row, *changed.values()]), make_schema())
    assert found.hashes[0] == found.hashes[1] and len(set(found.hashes.tolist())) == 1 + len(changed)


def test_an_event_of_the_same_second_is_counted(tmp_path: Path) -> None:
    rows = make_rows(5)
    longest = max(rows, key=lambda row: len(row["history.time"]))
    longest["history.time"][-1] = longest["time"]
    assert facts_of(split(tmp_path / "train", rows), make_schema()).at_once == 1


def test_over_time(tmp_path: Path) -> None:
    rows = [{**row, "time": 1_000 + 10 * n} for n, row in enumerate(make_rows(10))]
    found = facts_of(split(tmp_path / "train", rows), make_schema())
    starts, requests, ones, defined = over_time(found, 995, 30)
    assert starts.tolist() == [995, 1025, 1055, 1085] and requests.tolist() == [3, 3, 3, 1]
    assert ones[1, 0] == found.ones[3:6, 0].sum() and defined.sum() == found.defined.sum()
