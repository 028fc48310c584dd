"""Rows of a table that grows: ids keep theirs, and so does HIDDEN. Sharded tables: test_warm_start.py."""

from typing import Any

import pytest
import torch

from dist_rec.data.schema import Schema
from dist_rec.training.table_rows import Rows, kind_of, moved, take
from tests.data.requests import make_schema

GRAMS = {"rows": 40, "orders": [2]}


def _schema(rows: int, *, kind: str = "range", hidden: bool = False, grams: dict[str, Any] | None = None) -> Schema:
    tree = make_schema(hidden=hidden).model_dump(mode="json")
    tree["tables"]["item"] = rows
    tree["open_ids"] = {} if kind == "range" else {"item": kind}
    tree["sequences"][0]["ids"][0]["ngram"] = grams
    return Schema.model_validate(tree)


def test_kinds() -> None:
    assert kind_of(_schema(50, kind="hashed"), "item") == "hashed"
    grams = _schema(50, grams=GRAMS)
    assert [kind_of(grams, table) for table in ("item", "history_item_ngram")] == ["range", "n-grams"]


@pytest.mark.parametrize(
    ("before", "after", "rows"),
    [
        ((False, 50), (False, 50), [Rows(0, 0, 50)]),
        ((False, 50), (False, 70), [Rows(0, 0, 50)]),
        ((True, 50), (True, 70), [Rows(0, 0, 50), Rows(50, 70, 1)]),
        ((True, 50), (True, 50), [Rows(0, 0, 50), Rows(50, 50, 1)]),
        ((False, 50), (True, 70), [Rows(0, 0, 50)]),  # HIDDEN starts fresh
    ],
)
def test_where_rows_go(before: tuple[bool, int], after: tuple[bool, int], rows: list[Rows]) -> None:
    schemas = [_schema(count, hidden=hidden) for hidden, count in (before, after)]
    assert moved(schemas[0], "item", schemas[1], "item") == rows


def test_rows_are_copied() -> None:
    weight = torch.zeros(5, 2)
    take(weight, torch.arange(1.0, 7.0).reshape(3, 2), [Rows(0, 0, 2), Rows(2, 4, 1)])
    assert weight.tolist() == [[1, 2], [3, 4], [0, 0], [0, 0], [5, 6]]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        (_schema(50), _schema(49), "the table has shrunk: expected at least 50 ids as in the checkpoint, got 49"),
        (_schema(50), _schema(50, kind="hashed"), "same kind of ids, got range in the checkpoint and hashed now"),
        (_schema(50, kind="hashed"), _schema(60, kind="hashed"), "hashed ids would find other rows: expected 50 as in"),
        (_schema(50, kind="dynamic"), _schema(50, kind="dynamic"), "dynamic ids belongs to the run that gave it"),
    ],
)
def test_ids_that_would_not_find_their_rows(before: Schema, after: Schema, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        moved(before, "item", after, "item")


def test_ngrams_find_their_rows_or_are_refused() -> None:
    grams, table = _schema(50, grams=GRAMS), "history_item_ngram"
    assert moved(grams, table, _schema(60, grams=GRAMS), table) == [Rows(0, 0, 80)]
    with pytest.raises(ValueError, match="n-grams would find other rows"):
        moved(grams, table, _schema(50, grams=GRAMS | {"rows": 41}), table)
    hidden = _schema(50, grams=GRAMS, hidden=True)
    with pytest.raises(ValueError, match=r"n-grams of HIDDEN would find other rows.*expected 50 ids.*got 60"):
        moved(hidden, table, _schema(60, grams=GRAMS, hidden=True), table)
