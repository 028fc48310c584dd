"""The rows of a lane: every row in one batch, in the same order, whichever batch is read first."""

from collections.abc import Sequence
from itertools import chain, groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.strict import Strict
from dist_rec.data.columns import Ints
from dist_rec.data.files import RowGroup
from dist_rec.data.lane import Lane, parts_of_rows, side_by_side
from dist_rec.data.plan import EventPlan, Part, Rows
from dist_rec.data.row_reader import RowReader
from dist_rec.data.schema import Schema
from tests.data.requests import make_schema

SCHEMA = make_schema()
NEWEST = 9  # events that count, where they are cut


class Memory(RowReader):
    """Rows that are nothing but two sequences; counts what it reads."""

    def __init__(self, groups: Sequence[Sequence[int]]) -> None:
        super().__init__(Strict())
        self.groups, self.read_windows = groups, 0
        firsts = np.cumsum([0, *map(len, groups)])
        self.tables = [_table(first, lengths) for first, lengths in zip(firsts.tolist(), groups)]

    def row_groups(self, folder: Path, schema: Schema) -> list[RowGroup]:
        return [
            RowGroup(folder, index, len(lengths), sum(max(length, 1) + 1 for length in lengths))
            for index, lengths in enumerate(self.groups)
        ]

    def read(self, groups: Sequence[RowGroup], schema: Schema) -> pa.Table:
        self.read_windows += 1
        return pa.concat_tables([self.tables[group.index] for group in groups])


def _table(first: int, lengths: Sequence[int]) -> pa.Table:
    """`lengths` events of the history, none of the searches, which counts as one."""
    user = np.arange(first, first + len(lengths))
    history = [[0] * length for length in lengths]
    kinds = {"history.item": pa.list_(pa.uint8()), "searches.query": pa.list_(pa.uint8())}
    columns = [
        pa.array(user),
        pa.array(history, pa.list_(pa.uint8())),
        pa.array([[]] * len(lengths), kinds["searches.query"]),
    ]
    return pa.table(columns, names=["user", *kinds])


def _lane(reader: Memory, groups: list[RowGroup], *, window: int = 4, max_length: int | None = None) -> Lane:
    return Lane(reader, SCHEMA, groups, window=window, place=(3, 0), max_length=max_length)


def _users(found: tuple[pa.Table, Ints] | None) -> list[int]:
    return [] if found is None else found[0].column("user").to_numpy()[found[1]].tolist()


def _every_part(lane: Lane, parts: int) -> list[list[int]]:
    return [_users(lane.read(Part(number, parts))) for number in range(parts)]


LENGTHS = st.lists(st.integers(0, 30) | st.sampled_from([200]), min_size=1, max_size=12)


@given(
    groups=st.lists(LENGTHS, min_size=1, max_size=6),
    world_size=st.integers(1, 3),
    workers=st.integers(1, 2),
    most=st.integers(1, 60),
    window=st.integers(0, 9),
    max_length=st.sampled_from([None, NEWEST]),
    seed=st.sampled_from([None, 7]),
)
def test_every_row_is_in_one_batch_of_every_epoch(
    groups: list[list[int]],
    world_size: int,
    workers: int,
    most: int,
    window: int,
    max_length: int | None,
    seed: int | None,
) -> None:
    reader = Memory(groups)
    found = reader.row_groups(Path("memory"), SCHEMA)
    plan = EventPlan(found, world_size=world_size, workers=workers, most=most, epochs=3, seed=seed)
    for number in range(3):
        epoch = plan.epoch(number)
        assert len(epoch.slot) == plan.steps
        rows: list[int] = []
        for step in range(plan.steps):
            for rank in range(world_size):
                lane = _lane(
                    reader, epoch.lanes[epoch.slot[step] * world_size + rank], window=window, max_length=max_length
                )
                rows += _users(lane.read(epoch.batch(step)))  # a lane of its own: nothing was read before
        assert sorted(rows) == [*range(sum(map(len, groups)))]


@given(groups=st.lists(LENGTHS, min_size=1, max_size=6), parts=st.integers(1, 40), window=st.integers(0, 9))
def test_parts_follow_one_another_as_rows_do(groups: list[list[int]], parts: int, window: int) -> None:
    reader = Memory(groups)
    found = reader.row_groups(Path("memory"), SCHEMA)
    in_order = _users(_lane(reader, found, window=window).read(Rows(0, 10**6)))
    assert [*chain.from_iterable(_every_part(_lane(reader, found, window=window), parts))] == in_order


def test_windows_are_read_once_and_not_kept_at_the_end() -> None:
    reader = Memory([[5, 6, 7, 8]] * 5)
    lane = _lane(reader, reader.row_groups(Path("memory"), SCHEMA))
    assert sum(map(len, _every_part(lane, 7))) == 20 and reader.read_windows == 5
    assert lane._loaded is None


def test_a_part_reads_only_the_windows_that_it_is_in() -> None:
    reader = Memory([[9] * 4] * 5)
    lane = _lane(reader, reader.row_groups(Path("memory"), SCHEMA))
    assert _users(lane.read(Part(3, 5))) and reader.read_windows == 1


@pytest.mark.parametrize(("window", "max_length"), [(512, None), (2048, NEWEST)])
def test_batches_of_skewed_lengths_have_alike_events(window: int, max_length: int | None) -> None:
    """Lengths that are cut differ from those in the footers by window, so there is one window of these."""
    rng = np.random.default_rng(0)
    lengths = np.minimum(rng.lognormal(2.5, 1.0, (8, 256)).astype(int) + 1, 400)
    reader = Memory(lengths.tolist())
    counted = np.minimum(lengths, max_length or 10**6).ravel() + 1
    lane = _lane(reader, reader.row_groups(Path("memory"), SCHEMA), window=window, max_length=max_length)
    by_events = np.array([counted[users].sum() for users in _every_part(lane, 64)])
    by_rows = np.array([counted[_users(lane.read(Rows(32 * i, 32)))].sum() for i in range(64)])
    assert abs(by_events - by_events.mean()).max() <= counted.max()
    assert by_events.std() < by_rows.std() / 2


@given(
    weights=st.lists(st.integers(1, 50), min_size=1, max_size=40).map(np.array),
    low=st.floats(0, 50),
    size=st.floats(0.01, 39),
)
def test_no_part_is_skipped_where_there_are_rows_enough(weights: np.ndarray, low: float, size: float) -> None:
    high = low + size
    parts = parts_of_rows(weights, low, high)
    first, last = int(np.floor(low)), int(np.ceil(high)) - 1
    assert len(parts) == len(weights) and (np.diff(parts) >= 0).all()
    assert parts.min() >= first and parts.max() <= last
    if len(weights) > last - first:
        assert set(parts.tolist()) == {*range(first, last + 1)}


def test_rows_without_events_are_spread_too() -> None:
    reader = Memory([[0] * 8])
    lane = _lane(reader, reader.row_groups(Path("memory"), SCHEMA))
    assert [len(users) for users in _every_part(lane, 4)] == [2, 2, 2, 2]


def test_rows_go_where_their_middle_lies() -> None:
    weights = np.array([4, 4, 2, 2, 2, 2, 8, 8])
    assert parts_of_rows(weights, 0.0, 4.0).tolist() == [0, 0, 1, 1, 1, 1, 2, 3]
    assert parts_of_rows(weights, 5.0, 7.0).tolist() == [5, 5, 5, 5, 5, 5, 6, 6]


def test_a_row_longer_than_a_part_is_one_and_its_neighbours_are_spread() -> None:
    weights = np.array([1, 1, 1, 1, 40, 1, 1, 1, 1, 1])
    assert parts_of_rows(weights, 0.0, 7.0).tolist() == [0, 0, 0, 0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("batch", [Rows(0, 3), Part(0, 3)])
def test_a_lane_without_rows_has_none(batch: Rows | Part) -> None:
    assert _lane(Memory([]), []).read(batch) is None


def test_rows_after_the_end_are_none() -> None:
    reader = Memory([[1, 2], [3]])
    lane = _lane(reader, reader.row_groups(Path("memory"), SCHEMA), window=0)
    assert _users(lane.read(Rows(1, 5))) == [1, 2] and lane.read(Rows(3, 2)) is None


@given(st.lists(st.integers(0, 4), max_size=20), st.randoms(use_true_random=False))
def test_rows_of_a_user_follow_the_first_of_them(users: list[int], random: Any) -> None:
    order = np.array(random.sample(range(len(users)), len(users)), np.int64)
    found = [users[row] for row in side_by_side(order, np.array(users, np.int64)).tolist()]
    first = list(dict.fromkeys(users[row] for row in order.tolist()))
    assert [user for user, _ in groupby(found)] == first
    for user in first:
        mine = [row for row in order.tolist() if users[row] == user]
        assert [row for row in side_by_side(order, np.array(users, np.int64)).tolist() if users[row] == user] == mine
