"""Requests that are made have the sizes that were asked for; those that are measured, the sizes of the data."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from dist_rec.common.strict import ConfigError
from dist_rec.cost.requests import Described, described, first_batches, measured
from dist_rec.registry import READERS
from tests.data.kind_rows import kinds_schema, write_kinds
from tests.data.requests import make_schema
from tests.training.runs import make_config, write_dataset

SCHEMA = make_schema()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 40), st.integers(1, 4), st.integers(1, 9), st.floats(0, 0.9))
def test_a_batch_has_what_was_described(length: int, candidates: int, count: int, duplicates: float) -> None:
    of = described(SCHEMA, count, None, Described(length=length, candidates=candidates, duplicates=duplicates))
    batch = of.batch(SCHEMA)
    assert (batch.num_requests, batch.num_candidates) == (count, count * candidates)
    assert batch.num_events == of.events == len(SCHEMA.sequences) * count * length
    for name, feature_set in SCHEMA.layout.feature_sets.items():
        tokens = sum(batch.counts[owner] for owner, its in SCHEMA.layout.owners.items() if its is feature_set)
        wanted = min(max(round(tokens * of.unique[name]), 1), tokens)
        possible = np.prod([SCHEMA.layout.sizes[key] for key in feature_set.keys])
        assert batch.num_unique[feature_set.keys[0]] <= wanted
        assert batch.num_unique[feature_set.keys[0]] >= min(wanted, possible) // 2


def test_lengths_are_spread_as_described() -> None:
    of = described(SCHEMA, 4000, None, Described(length=200, spread=0.8))
    lengths = of.lengths[SCHEMA.sequences[0].name]
    assert lengths.mean() == pytest.approx(200, rel=0.05) and lengths.std() == pytest.approx(160, rel=0.1)


def test_a_batch_by_events_has_as_many_requests_as_fit() -> None:
    assert described(SCHEMA, None, 1000, Described(length=50)).count == 1000 // (50 * len(SCHEMA.sequences))


def test_one_candidate_each_repeats_the_history_and_no_new_tokens() -> None:
    of = described(SCHEMA, 5, None, Described(length=40, candidates=3, duplicates=0.5))
    apart = of.one_candidate_each()
    assert (apart.count, apart.events, int(apart.candidates.sum())) == (15, 3 * of.events, 15)
    history = SCHEMA.layout.owners["history"].name
    assert apart.unique[history] * (apart.events + 15) == pytest.approx(of.unique[history] * (of.events + 15))
    assert apart.spread * 15**0.5 == pytest.approx(3 * of.spread * 5**0.5)


def test_padding_makes_all_as_long_as_the_longest() -> None:
    of = described(SCHEMA, 50, None, Described(length=40, spread=0.5))
    padded = of.padded()
    for name, lengths in padded.lengths.items():
        assert (lengths == of.lengths[name].max()).all()
    assert padded.spread / padded.events == pytest.approx(of.spread / of.events)


def test_the_first_requests_are_a_part() -> None:
    of = described(SCHEMA, 5, None, Described(length=40, spread=0.5))
    assert of.first(2).count == 2 and of.first(2).events == sum(int(x[:2].sum()) for x in of.lengths.values())


def test_data_is_measured(tmp_path: Path) -> None:
    config = make_config(write_dataset(tmp_path / "data"), tmp_path)
    of = measured(config, SCHEMA)
    assert of.count == 8 and set(of.lengths) == {s.name for s in SCHEMA.sequences} and of.spread > 0
    assert 0 <= of.duplicates < 1 and of.batch(SCHEMA).num_events == of.events


def test_without_data_the_message_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing to measure.*--requests length="):
        measured(make_config(tmp_path / "none", tmp_path), SCHEMA)


def test_lists_are_as_long_and_as_alike_as_those_of_the_data(tmp_path: Path) -> None:
    schema = kinds_schema()
    config = make_config(write_kinds(tmp_path / "data", {"train": 64}), tmp_path, data={"batch_size": 64})
    of = measured(config, schema)
    (read,) = first_batches(config, schema, READERS.make(config.data.reader), 1, dedup=True)
    made = of.batch(schema)
    assert set(of.lists) == {*schema.layout.id_lists, *schema.layout.attribute_lists}
    for owner in of.lists:
        (key,) = schema.layout.owners[owner].keys
        assert read.counts[owner] > 0
        lists = len(made.tensors[f"lengths.{owner}"]) / len(read.tensors[f"lengths.{owner}"])
        # Ids of one table have lists of one size, whatever their keys.
        assert made.counts[owner] == pytest.approx(lists * read.counts[owner], rel=0.05)
        if not key.startswith("candidate.related"):
            assert made.num_unique[key] == pytest.approx(lists * read.num_unique[key], rel=0.1, abs=1)


def test_lists_are_as_described() -> None:
    schema = kinds_schema()
    batch = described(schema, 4, None, Described(length=9, candidates=3, list_ids=1.5)).batch(schema)
    assert batch.counts["context.tags"] == 6 and batch.counts["candidate.related"] == 18
    assert batch.counts["history.item.genres"] == round(1.5 * batch.num_unique["history.item"])
    empty = described(schema, 4, None, Described(length=9, candidates=3, list_ids=0)).batch(schema)
    assert not any(empty.counts[owner] for owner in ("context.tags", "candidate.related", "history.item.makers"))
    with pytest.raises(ValidationError, match="list_ids"):
        Described(length=9, list_ids=1e30)
