"""Counts of a dataset's n-grams against counts of tuples."""

from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dist_rec.data.collate import collate
from dist_rec.data.ngram.report import NgramCounter, render
from tests.data.ngram.schemas import ngram_schema
from tests.data.requests import make_rows, make_table


def tuples(rows: list[dict[str, Any]], order: int) -> list[tuple[int, ...]]:
    """N-grams of all events, 0 for no event."""
    found = []
    for row in rows:
        ids = [0] * (order - 1) + [item + 1 for item in row["history.item"]]
        found += [tuple(ids[i : i + order]) for i in range(len(ids) - order + 1)]
    return found


@pytest.mark.parametrize("batches", [1, 4])
def test_counts_are_those_of_tuples(batches: int) -> None:
    schema, rows = ngram_schema(("item",), heads=2, rows=[50, 90, 60, 70]), make_rows(40)
    counter = NgramCounter(schema.layout.ngrams["history.item.ngram"])
    for part in np.array_split(np.arange(len(rows)), batches):
        counter.add(collate(make_table([rows[i] for i in part], schema), schema))
    for report, order in zip(counter.reports(), (2, 3), strict=True):
        every = tuples(rows, order)
        assert report.name == f"history.item.{order}"
        assert (report.events, report.distinct) == (len(every), len(set(every)))
        assert report.use.events == report.events and report.use.ids == 2 * report.events
        assert 0 < report.rows_used <= 1 and 0 <= report.lost <= report.sharing <= 1
        assert report.sharing > 0.5, "more n-grams than rows"


def test_with_rows_enough_nothing_is_shared() -> None:
    schema, rows = ngram_schema(("item",), rows=[2**28, 2**28]), make_rows(40)
    counter = NgramCounter(schema.layout.ngrams["history.item.ngram"])
    counter.add(collate(make_table(rows, schema), schema))
    bigrams, trigrams = counter.reports()
    assert bigrams.sharing == bigrams.lost == trigrams.lost == 0.0
    assert bigrams.rows_used == pytest.approx(len(set(tuples(rows, 2))) / 2**28)


def test_no_events() -> None:
    counter = NgramCounter(ngram_schema(("item",)).layout.ngrams["history.item.ngram"])
    (first, _) = counter.reports()
    assert (first.events, first.distinct, first.rows_used, first.sharing, first.lost) == (0, 0, 0.0, 0.0, 0.0)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(render(counter.reports(), 64))
    assert "history.item.2" in captured.get()
