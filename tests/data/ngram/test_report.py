"""Counts of a dataset's n-grams against counts of tuples."""

from collections import Counter
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from dist_rec.data.collate import collate
from dist_rec.data.ngram.host import host_ngram_ids
from dist_rec.data.ngram.report import NgramCounter, render
from tests.data.ngram.schemas import ngram_schema
from tests.data.requests import make_rows, make_table

SCHEMA = ngram_schema(("item",), heads=2, rows=[50, 90, 60, 70])


def tuples(rows: list[dict[str, Any]], order: int) -> list[tuple[int, ...]]:
    """N-grams of all events, 0 for no event."""
    found = []
    for row in rows:
        ids = [0] * (order - 1) + [item + 1 for item in row["history.item"]]
        found += [tuple(ids[i : i + order]) for i in range(len(ids) - order + 1)]
    return found


def rows_by_tuple(rows: list[dict[str, Any]], order: int) -> dict[tuple[int, ...], tuple[int, ...]]:
    """The rows of both heads of every distinct n-gram."""
    spec = SCHEMA.layout.ngrams["history.item.ngram"].spec
    place = 2 * spec.orders.index(order)
    found = {}
    for row in rows:
        ids = np.array(row["history.item"], np.int64)
        made = host_ngram_ids(ids, np.array([len(ids)]), spec)[:, place : place + 2]
        found |= {of: tuple(own) for of, own in zip(tuples([row], order), made.tolist(), strict=True)}
    return found


@pytest.mark.parametrize("batches", [1, 4])
def test_counts_are_those_of_tuples(batches: int) -> None:
    schema, rows = SCHEMA, make_rows(40)
    counter = NgramCounter(schema.layout.ngrams["history.item.ngram"])
    for part in np.array_split(np.arange(len(rows)), batches):
        counter.add(collate(make_table([rows[i] for i in part], schema), schema))
    for report, order in zip(counter.reports(), (2, 3), strict=True):
        every = tuples(rows, order)
        assert report.name == f"history.item.{order}"
        assert (report.events, report.distinct) == (len(every), len(set(every)))
        assert report.use.events == report.events and report.use.ids == 2 * report.events
        assert 0 < report.rows_used <= 1 and 0 <= report.lost <= report.sharing <= 1
        rows_of = rows_by_tuple(rows, order)
        by_head = [Counter(of[head] for of in rows_of.values()) for head in (0, 1)]
        shared = [by_head[head][of[head]] > 1 for of in rows_of.values() for head in (0, 1)]
        assert report.sharing == pytest.approx(np.mean(shared))
        together = Counter(rows_of.values())
        assert report.lost == pytest.approx(np.mean([together[of] > 1 for of in rows_of.values()]))


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
