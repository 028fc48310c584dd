from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from dist_rec.config import ConfigError
from dist_rec.data.inspect import inspect_dataset, render
from dist_rec.data.validate import DataError
from dist_rec.data.writer import write_schema
from tests.data.requests import make_dataset, make_rows, make_schema


def test_numbers_by_hand(tmp_path: Path) -> None:
    rows = make_rows(30)
    report = inspect_dataset(make_dataset(tmp_path / "small", 30))
    (split,) = report.splits
    lengths = [len(row["history.item"]) for row in rows]
    clicks = [click for row in rows for click in row["candidate.click"]]
    owners = ("history", "candidate")
    items = [item for owner in owners for row in rows for item in zip(row[f"{owner}.item"], row[f"{owner}.kind"])]
    searches = [query for row in rows for query in row["searches.query"]]
    assert (split.name, split.rows, split.candidates) == ("train", 30, len(clicks))
    assert split.lengths["history"]["p50"] == np.percentile(lengths, 50)
    assert split.lengths["history"]["max"] == max(lengths)
    assert split.label_rate["click"] == pytest.approx(np.mean(clicks))
    distinct = len(set(items)) + len(set(searches))
    assert split.duplicate_share == pytest.approx(1 - distinct / (len(items) + len(searches)))
    assert report.cardinality["history.item"] == (len({item for item, _ in items}), 50)
    assert report.cardinality["context.user"] == (30, 1000)
    assert 0 < split.bytes_per_batch < split.plain_bytes_per_batch


def test_rates_of_conditional_labels_are_over_those_defined(tmp_path: Path) -> None:
    rows = make_rows(30)
    folder = make_dataset(tmp_path / "small", 30)
    candidate = {"static": ["item", "kind"], "labels": ["click", "buy"], "truth": True, "given": {"buy": "click"}}
    write_schema(folder, make_schema(candidate=candidate))
    (split,) = inspect_dataset(folder).splits
    pairs = [pair for row in rows for pair in zip(row["candidate.click"], row["candidate.buy"])]
    assert split.label_rate["click"] == pytest.approx(np.mean([click for click, _ in pairs]))
    assert split.label_rate["buy"] == pytest.approx(np.mean([buy for click, buy in pairs if click]))


def test_render(tmp_path: Path) -> None:
    console = Console(width=160)
    with console.capture() as captured:
        console.print(render(inspect_dataset(make_dataset(tmp_path / "small", 30))))
    text = captured.get()
    assert "small: splits" in text and "train" in text and "searches" in text and "history.item" in text


def test_no_splits(tmp_path: Path) -> None:
    write_schema(tmp_path, make_schema())
    with pytest.raises(DataError, match="expected at least one sub-folder with Parquet files, got none"):
        inspect_dataset(tmp_path)


def test_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        inspect_dataset(tmp_path / "nothing")
