"""A batch size that changes on the way: every row of every epoch once, whenever and however often it changes."""

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.common.strict import ConfigError
from dist_rec.data.files import RowGroup
from dist_rec.data.plan import EventPlan, RowEpoch, RowPlan, Steps
from dist_rec.data.recut import RecutPlan, recut
from dist_rec.data.stages import StagedPlan

RANKS, EPOCHS = 2, 3


def _groups(sizes: list[int]) -> list[RowGroup]:
    return [RowGroup(Path("a"), index, rows, rows * 3) for index, rows in enumerate(sizes)]


def _plan(sizes: list[int], most: int, kind: type[RowPlan] | type[EventPlan] = RowPlan) -> RowPlan | EventPlan:
    return kind(_groups(sizes), world_size=RANKS, workers=2, most=most, epochs=EPOCHS, seed=4)


def _read(plan: Steps, first: int, end: int) -> Counter[tuple[int, int, int]]:
    """(epoch, row group, row) of steps from `first` to `end`."""
    found: Counter[tuple[int, int, int]] = Counter()
    for step in range(first, end):
        number, place = plan.locate(step)
        epoch = plan.epoch(number)
        assert isinstance(epoch, RowEpoch)
        slot, batch = int(epoch.slot[place]), epoch.batch(place)
        for rank in range(RANKS):
            groups = epoch.lanes[slot * RANKS + rank]
            rows = [(number, group.index, row) for group in groups for row in range(group.rows)]
            found.update(rows[batch.first : batch.first + batch.count])
    return found


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=9),
    st.lists(st.tuples(st.integers(1, 20), st.floats(0, 1)), min_size=1, max_size=3),
    st.integers(1, 20),
)
def test_every_row_of_every_epoch_once(sizes: list[int], changes: list[tuple[int, float]], most: int) -> None:
    plan: Steps = _plan(sizes, most)
    read: Counter[tuple[int, int, int]] = Counter()
    at = 0
    for batch, share in changes:
        end = at + int(share * (plan.total - at))
        read += _read(plan, at, end)
        plan, at = recut(plan, end, _plan(sizes, batch)), end
    read += _read(plan, at, plan.total)
    rows = [(index, row) for index, size in enumerate(sizes) for row in range(size)]
    assert read == Counter((epoch, *row) for epoch in range(EPOCHS) for row in rows)


@given(st.integers(0, 11), st.integers(1, 9))
def test_epochs_end_where_their_rows_do(at: int, batch: int) -> None:
    before = _plan([16, 16], 4)
    assert before.total == 12
    plan = RecutPlan(before, at, _plan([16, 16], batch))
    number, _ = before.locate(at)
    ends = [plan.epoch_end(step) for step in range(at, plan.total)]
    assert sorted(set(ends)) == [step + 1 for step in range(at, plan.total) if _last_of_its_epoch(plan, step)]
    assert len(set(ends)) == EPOCHS - number


def _last_of_its_epoch(plan: Steps, step: int) -> bool:
    return step + 1 == plan.total or plan.locate(step + 1)[0] != plan.locate(step)[0]


def test_a_stage_is_cut_anew_and_later_ones_follow() -> None:
    folders = ([20], [9, 9], [14])
    before = StagedPlan([_plan(sizes, 4) for sizes in folders])
    after = StagedPlan([_plan(sizes, 7) for sizes in folders])
    at = before.ends[0] + 2
    plan = recut(before, at, after)
    assert isinstance(plan, StagedPlan) and plan.ends[0] == before.ends[0]
    assert plan.ends[2] - plan.ends[1] == after.ends[2] - after.ends[1]
    later = _read(plan, at, plan.total)
    everything = _read(before, 0, at) + later
    assert set(everything.values()) == {1} and everything.total() == EPOCHS * (20 + 18 + 14)


def test_batches_by_events_change_at_an_epochs_end_alone() -> None:
    before, after = _plan([8, 8, 8, 8], 12, EventPlan), _plan([8, 8, 8, 8], 24, EventPlan)
    end = before.epoch_end(0)
    plan = RecutPlan(before, end, after)
    assert plan.total == end + (EPOCHS - 1) * after.steps
    with pytest.raises(ConfigError, match=r"data.batch_events: .* after step 1, in the middle of an epoch; expected"):
        RecutPlan(before, 1, after)


def test_earlier_steps_are_gone() -> None:
    plan = RecutPlan(_plan([16], 4), 2, _plan([16], 8))
    with pytest.raises(IndexError, match="step 1 lies before"):
        plan.locate(1)
