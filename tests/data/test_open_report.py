from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dist_rec.common.id_hash import hashed_rows
from dist_rec.common.open_ids import expected_sharing
from dist_rec.data.inspect import inspect_dataset
from dist_rec.data.inspect import render as render_dataset
from dist_rec.data.open_report import RawIds, render
from dist_rec.data.writer import write_schema, write_split
from tests.data.open_rows import open_rows, open_schema
from tests.data.requests import make_table

ROWS = open_rows(30)
ITEMS = {item for row in ROWS for name in ("history.item", "candidate.item") for item in row[name]}


def _dataset(folder: Path, kind: str) -> Path:
    schema = open_schema(kind)
    write_schema(folder, schema)
    write_split(folder / "train", make_table(ROWS, schema), schema)
    return folder


@pytest.mark.parametrize("kind", ["hashed", "dynamic"])
def test_distinct_ids_and_how_many_share_a_row(tmp_path: Path, kind: str) -> None:
    report = inspect_dataset(_dataset(tmp_path, kind))
    item, user = report.open_tables
    rows = hashed_rows(np.array(sorted(ITEMS)), 40)
    shared = np.bincount(rows)[rows] > 1
    assert (item.name, item.kind, item.distinct, item.rows) == ("item", kind, len(ITEMS), 40)
    assert item.measured == pytest.approx(shared.mean()) and item.expected == expected_sharing(len(ITEMS), 40)
    assert user.distinct == 30 and report.cardinality["context.user"] == (30, 40)
    assert list(report.cardinality) == ["context.user", "history.item", "history.kind", "searches.query"]
    with (console := Console(width=160)).capture() as captured:
        console.print(render(report.open_tables))
        console.print(render_dataset(report))
    assert captured.get().count("ids without a range") == 2


def test_bytes_are_those_that_a_run_would_send(tmp_path: Path) -> None:
    (hashed,) = inspect_dataset(_dataset(tmp_path / "hashed", "hashed")).splits
    (dynamic,) = inspect_dataset(_dataset(tmp_path / "dynamic", "dynamic")).splits
    more = 7 * (len(ITEMS) + 30)  # a byte for one of 40 rows in the place of 8; pairs of items and kinds are still more
    assert dynamic.bytes_per_batch >= hashed.bytes_per_batch + more
    assert dynamic.duplicate_share == hashed.duplicate_share


def test_raw_ids_are_collected_over_batches() -> None:
    raw = RawIds(open_schema())
    assert [of.distinct for of in raw.reports()] == [0, 0] and raw.keys == ["context.user", "history.item"]
    assert set(RawIds.unhashed(raw.schema).open_ids.values()) == {"dynamic"}
