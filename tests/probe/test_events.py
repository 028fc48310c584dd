"""The rows that a probe reads: in both directions, with candidates that see what they may."""

import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.strict import ConfigError
from dist_rec.data.columns import ragged_values
from dist_rec.data.schema_file import load_schema
from dist_rec.probe.events import GAPS, read_events, sequence_of, shares_tokens, turned_round, with_candidates
from tests.data.open_rows import open_schema
from tests.data.requests import make_rows, make_schema, make_table
from tests.probe.data import read


@given(lengths=st.lists(st.integers(0, 5), max_size=8))
def test_turning_round_twice_is_nothing(lengths: list[int]) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    index = turned_round(offsets)
    assert np.array_equal(index[index], np.arange(offsets[-1]))
    wanted = [i for start, stop in itertools.pairwise(offsets) for i in reversed(range(start, stop))]
    assert index.tolist() == wanted


def test_backward_is_forward_reversed_with_the_gap_to_the_event_after(data: Path) -> None:
    table, (sequence,) = read(data), load_schema(data).sequences
    ahead, back = (read_events(table, sequence, backward=backward) for backward in (False, True))
    turned = turned_round(np.concatenate([[0], np.cumsum(ahead.lengths)]))
    assert np.array_equal(back.ids, ahead.ids[turned]) and np.array_equal(back.side, ahead.side[turned])
    time = ragged_values(table, "history.time").values.astype(np.int64)
    for start, length in zip(ahead.starts, ahead.lengths):
        if not length:
            continue
        assert ahead.gap[start] == GAPS == back.gap[start], "nothing is before the first of either"
        for i in range(1, length):
            seconds = time[start + i] - time[start + i - 1]
            bucket = min(int(2 * np.log2(seconds + 1)), GAPS - 1)
            assert ahead.gap[start + i] == bucket == back.gap[start + length - i]


def test_candidates_stand_behind_their_events(data: Path) -> None:
    table, schema = read(data), load_schema(data)
    (sequence,) = schema.sequences
    events = read_events(table, sequence, backward=False)
    both = with_candidates(events, table, schema, sequence, backward=False)
    assert np.array_equal(both.ids[both.is_event], events.ids)
    items = ragged_values(table, "candidate.item")
    assert np.array_equal(both.ids[~both.is_event][:, 0], items.values)
    assert np.array_equal(both.lengths, events.lengths + items.lengths)
    assert np.array_equal(both.visible, np.repeat(events.lengths, items.lengths))
    assert (both.side[~both.is_event] == sequence.side["action"]).all() and (both.gap[~both.is_event] == GAPS).all()
    backward = with_candidates(read_events(table, sequence, backward=True), table, schema, sequence, backward=True)
    assert not backward.visible.any(), "no event comes after a candidate"


def test_the_newest_events_of_some_requests(data: Path) -> None:
    table, (sequence,) = read(data), load_schema(data).sequences
    events = read_events(table, sequence, backward=False)
    some = events.take(np.array([5, 2]), 4)
    parts = [events.ids[s : s + n][-4:] for s, n in ((events.starts[r], events.lengths[r]) for r in (5, 2))]
    assert np.array_equal(some.ids, np.concatenate(parts)) and some.lengths.tolist() == [len(part) for part in parts]


def test_of_several_sequences_one_is_named() -> None:
    schema = make_schema()
    assert sequence_of(schema, "searches").name == "searches"
    with pytest.raises(ConfigError, match=r"--sequence: expected one of history, searches, got none"):
        sequence_of(schema, None)
    assert shares_tokens(schema, sequence_of(schema, "history")) != shares_tokens(
        schema, sequence_of(schema, "searches")
    )
    rows = read_events(make_table(make_rows(6, 0)), sequence_of(schema, "searches"), backward=True)
    assert rows.ids.shape[0] == rows.lengths.sum()


def test_ids_without_a_range_have_no_probe() -> None:
    with pytest.raises(ConfigError, match="a probe has a row for every id of history, but table item has dynamic ids"):
        sequence_of(open_schema("dynamic"), "history")
    assert sequence_of(open_schema("dynamic"), "searches").name == "searches"
