"""Counts of the n-grams of a batch against counts by hand."""

from dist_rec.data.ngram.counts import NgramUse, use_by_order
from tests.data.ngram.schemas import ngram_schema


def test_rows_by_order() -> None:
    of = ngram_schema(("item",), heads=2, rows=[10, 20, 30, 40]).layout.ngrams["history.item.ngram"]
    expected = {"history.item.2": NgramUse(7, 14, 3), "history.item.3": NgramUse(7, 14, 9)}
    assert use_by_order([1, 2, 4, 5], 7, of) == expected


def test_ratios_and_sums() -> None:
    use = NgramUse(10, 20, 4) + NgramUse(0, 0, 1)
    assert (use.rows_per_event, use.dedup_factor) == (0.5, 4.0)
    assert (NgramUse(0, 0, 0).rows_per_event, NgramUse(0, 0, 0).dedup_factor) == (0.0, 0.0)
