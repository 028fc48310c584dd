"""Datasets, and what checkpoints say, in the words of before 0.1.0."""

import logging

import pyarrow as pa
import pytest

from dist_rec.common.strict import check
from dist_rec.data import older_words
from dist_rec.data.older_words import older_column, recipe_with_todays_words, stored_names, with_todays_words
from dist_rec.data.schema import Schema
from dist_rec.data.validate import check_columns
from tests.data.requests import make_schema, seen_schema

OLDER = {
    "name": "small",
    "tables": {"item": 50, "kind": 5, "user": 1000},
    "request": {"group": "user"},
    "context": ["user"],
    "sequences": [{"name": "history", "static": ["item", "kind"], "dynamic": {"action": 4}}],
    "candidate": {"static": ["item"], "dynamic": {"slot": 3}, "labels": ["click"], "seen": True, "truth": True},
    "groups": {"all": ["context.user", "candidate.item", "candidate.slot"]},
}
TODAY = {
    "name": "small",
    "tables": {"item": 50, "kind": 5, "user": 1000},
    "request": {"grouping_key": "user"},
    "context": ["user"],
    "sequences": [{"name": "history", "ids": ["item", "kind"], "side": {"action": 4}}],
    "candidate": {"ids": ["item"], "side": {"slot": 3}, "labels": ["click"], "visible_events": True, "oracle": True},
    "feature_groups": {"all": ["context.user", "candidate.item", "candidate.slot"]},
}


def test_older_words_mean_todays_and_are_said_once(caplog: pytest.LogCaptureFixture) -> None:
    older_words._say_once.cache_clear()
    with caplog.at_level(logging.WARNING, logger="dist_rec.data"):
        assert with_todays_words(OLDER, "here") == with_todays_words(OLDER, "here") == TODAY
        assert with_todays_words(TODAY, "there") == TODAY
    assert [record.getMessage() for record in caplog.records] == [
        "here: written in words of before 0.1.0, which are still read; `dist-rec data migrate` rewrites them"
    ]
    assert check(Schema, TODAY, "here").candidate.visible_events


def test_a_key_in_both_words_and_a_wrong_tree_stay_for_the_schema_to_refuse() -> None:
    both = {**TODAY, "request": {"group": "a", "grouping_key": "b"}}
    assert with_todays_words(both, "here")["request"] == {"group": "a", "grouping_key": "b"}
    assert with_todays_words({"sequences": 3, "candidate": None}, "here") == {"sequences": 3, "candidate": None}


def test_columns() -> None:
    names = ["history.item", "candidate.visible_events", "candidate.buy.oracle", "oracle"]
    older = ["history.item", "candidate.seen", "candidate.buy.truth", "oracle"]
    assert [older_column(name) for name in names] == older
    assert stored_names(names, older) == older and stored_names(names, names) == names
    assert stored_names(names, [*names, *older]) == names, "a file in today's words may have other columns"


def test_a_table_in_older_words_is_not_what_a_writer_may_give() -> None:
    today = pa.schema([("candidate.seen", pa.list_(pa.int32()))])
    with pytest.raises(ValueError, match=r"field user: expected a column of that name|candidate"):
        check_columns(today, seen_schema(), file="here")
    assert make_schema().candidate.oracle


def test_the_recipe_of_a_checkpoint() -> None:
    older = {
        "model": {"tokens": {"dynamic_dim": 4, "width": 8}, "longer": {"k": 3}},
        "optim": {"staleness": "compensate"},
    }
    older["optim"] |= {"compensation": 0.1, "lr": 0.5}
    assert recipe_with_todays_words(older) == {
        "model": {"tokens": {"side_dim": 4, "width": 8}, "longer": {"k": 3}},
        "optim": {"correction": "none", "lr": 0.5},
    }
    assert recipe_with_todays_words({"optim": {"staleness": "extrapolate"}})["optim"] == {"correction": "extrapolate"}
    assert recipe_with_todays_words({"data": {}}) == {"data": {}, "model": {}, "optim": {}}
