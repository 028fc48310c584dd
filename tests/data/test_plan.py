"""Which step reads what: every row once an epoch, and rows on some rank in every step that can have any."""

import pickle
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dist_rec.data.files import RowGroup
from dist_rec.data.plan import ORDERS, EventEpoch, EventPlan, Part, RowEpoch, RowPlan

SIZES = {
    "one": [128],
    "two": [128, 8],
    "large and small": [1000, 10, 10, 3, 1],
    "many": [8] * 9 + [3],
    "uneven": [7, 1, 1, 30, 2, 5, 11, 1, 4],
}


def _plan(
    sizes: list[int], *, world_size: int, workers: int, batch_size: int = 4, epochs: int = 4, seed: int | None = 3
) -> RowPlan:
    groups = [RowGroup(Path("a"), index, rows) for index, rows in enumerate(sizes)]
    return RowPlan(groups, world_size=world_size, workers=workers, most=batch_size, epochs=epochs, seed=seed)


def _epoch(plan: RowPlan, epoch: int) -> RowEpoch:
    found = plan.epoch(epoch)
    assert isinstance(found, RowEpoch)
    return found


def _rows(plan: RowPlan, epoch: int) -> list[list[list[tuple[int, int]]]]:
    """Per step and rank, (row group, row) of its batch."""
    found = _epoch(plan, epoch)
    lanes = [[(group.index, row) for group in groups for row in range(group.rows)] for groups in found.lanes]
    return [
        [lanes[slot * plan.world_size + rank][first : first + count] for rank in range(plan.world_size)]
        for slot, first, count in zip(found.slot, found.first, found.count, strict=True)
    ]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("world_size", [1, 2, 5])
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_every_row_once_and_no_step_without_rows(sizes: list[int], world_size: int, workers: int) -> None:
    plan = _plan(sizes, world_size=world_size, workers=workers)
    for epoch in range(4):
        steps = _rows(plan, epoch)
        assert len(steps) == plan.steps
        assert all(any(rows) for rows in steps)
        assert max(len(rows) for ranks in steps for rows in ranks) <= 4
        rows = Counter(row for ranks in steps for rows in ranks for row in rows)
        assert rows == Counter((index, row) for index, size in enumerate(sizes) for row in range(size))


def test_enough_row_groups_keep_every_worker_with_its_slot() -> None:
    plan = _plan([8] * 24, world_size=2, workers=3)
    found = _epoch(plan, 0)
    assert plan.steps == 24 and plan.empty_share == 0
    assert found.slot.tolist() == [0, 1, 2] * 8 and set(found.count) == {4}
    assert found.first.tolist() == [4 * (step // 3) for step in range(24)]


def test_workers_share_a_single_row_group() -> None:
    found = _epoch(_plan([128], world_size=1, workers=2, batch_size=16, seed=None), 0)
    assert found.slot.tolist() == [0] * 8 and found.first.tolist() == [*range(0, 128, 16)]


def test_an_epoch_that_needs_fewer_steps_cuts_batches() -> None:
    """Groups of 8, 4 and 4 rows are 8 + 8 or 12 + 4 rows of two ranks."""
    plan = _plan([8, 4, 4], world_size=2, workers=1, epochs=20)
    assert plan.steps == 3
    counts = {tuple(_epoch(plan, epoch).count.tolist()) for epoch in range(20)}
    assert counts == {(4, 4, 4), (4, 2, 2)}


def test_where_nothing_can_be_cut_a_step_stays_empty() -> None:
    plan = _plan([2, 1, 1], world_size=2, workers=1, batch_size=1, epochs=30)
    assert plan.steps == 3
    assert {len(plan.epoch(epoch).slot) for epoch in range(30)} == {3}


def test_the_part_that_is_empty() -> None:
    assert _plan([128], world_size=2, workers=1).empty_share == 0.5
    assert _plan([128], world_size=1, workers=2).empty_share == 0
    assert _plan([128] * 2, world_size=2, workers=1).empty_share == 0


def test_the_order_depends_on_the_seed_and_the_epoch() -> None:
    def order(seed: int | None, epoch: int) -> list[int]:
        lanes = _plan([8] * 30, world_size=1, workers=1, seed=seed).assign(epoch)
        return [group.index for group in lanes[0]]

    assert order(None, 0) == order(None, 1) == [*range(30)]
    assert order(1, 0) == order(1, 0) and len({tuple(order(*of)) for of in ((1, 0), (1, 1), (2, 0))}) == 3


@pytest.mark.parametrize("sizes", [[8] * 24, [8] * 23 + [3]], ids=["equal", "uneven"])
def test_a_start_takes_no_longer_for_many_epochs(sizes: list[int]) -> None:
    begun = time.perf_counter()
    plan = _plan(sizes, world_size=2, workers=3, epochs=10**9)
    assert plan.steps == _plan(sizes, world_size=2, workers=3, epochs=ORDERS).steps
    assert len(plan.epoch(10**9 - 1).slot) == plan.steps
    assert time.perf_counter() - begun < 5


def test_row_groups_come_in_the_same_order_after_many_epochs() -> None:
    plan = _plan(SIZES["uneven"], world_size=2, workers=1, epochs=3 * ORDERS)
    assert plan.assign(7) == plan.assign(ORDERS + 7) != plan.assign(ORDERS + 8)


def test_a_plan_travels_to_another_process_with_what_it_has_found() -> None:
    plan = _plan(SIZES["uneven"], world_size=2, workers=2)
    assert plan.steps and plan.epoch(2)
    came = pickle.loads(pickle.dumps(plan))
    assert "_steps" in vars(came) and came.steps == plan.steps
    for epoch in (2, 1):
        assert came.epoch(epoch).lanes == plan.epoch(epoch).lanes
        assert _epoch(came, epoch).count.tolist() == _epoch(plan, epoch).count.tolist()


def _event_plan(
    events: list[int], *, rows: int = 8, world_size: int = 2, workers: int = 1, most: int = 10, **settings: Any
) -> EventPlan:
    """Row groups of equally many rows and these events."""
    groups = [RowGroup(Path("a"), index, rows, of) for index, of in enumerate(events)]
    settings = {"epochs": 4, "seed": 3} | settings
    return EventPlan(groups, world_size=world_size, workers=workers, most=most, **settings)


def _event_epoch(plan: EventPlan, epoch: int) -> EventEpoch:
    found = plan.epoch(epoch)
    assert isinstance(found, EventEpoch)
    return found


def test_lanes_are_balanced_by_events() -> None:
    lanes = _event_plan([90, 10, 10, 10, 10, 10, 10, 10, 10, 10], seed=None).assign(0)
    assert [sum(group.events or 0 for group in lane) for lane in lanes] == [90, 90]
    by_rows = _plan([8] * 10, world_size=2, workers=1, seed=None).assign(0)
    assert [len(lane) for lane in by_rows] == [5, 5], "where rows are counted, events do not matter"


def test_the_last_row_groups_even_the_lanes_out() -> None:
    events = np.random.default_rng(0).lognormal(6, 0.5, 64).astype(int).tolist()
    partitions = set()
    for epoch in range(10):
        lanes = _event_plan(events, world_size=4, epochs=10).assign(epoch)
        held = [sum(group.events or 0 for group in lane) for lane in lanes]
        assert max(held) < 1.02 * sum(held) / 4
        partitions.add(frozenset(frozenset(group.index for group in lane) for lane in lanes))
    assert len(partitions) == 10, "other row groups are together in every epoch"


def test_lanes_read_in_the_order_of_the_epoch() -> None:
    lanes = _event_plan([*range(1, 41)], world_size=3, seed=None).assign(0)
    assert all([group.index for group in lane] == sorted(group.index for group in lane) for lane in lanes)
    assert sorted(group.index for lane in lanes for group in lane) == [*range(40)]


def test_equal_row_groups_are_assigned_as_by_rows() -> None:
    by_events = _event_plan([40] * 24, world_size=3, workers=2).assign(1)
    by_rows = _plan([8] * 24, world_size=3, workers=2).assign(1)
    assert [[group.index for group in lane] for lane in by_events] == [
        [group.index for group in lane] for lane in by_rows
    ]


def test_a_slot_has_the_batches_of_its_largest_lane() -> None:
    plan = _event_plan([45, 30], seed=None)
    assert plan.steps == 5
    assert [plan.epoch(0).batch(step) for step in range(5)] == [Part(number, 5) for number in range(5)]
    assert plan.empty_share == pytest.approx(1 - 75 / 90)


def test_slots_take_turns_by_events_too() -> None:
    found = _event_epoch(_event_plan([30, 30, 20, 20], workers=2, seed=None), 0)
    assert found.slot.tolist() == [0, 1, 0, 1, 0] and found.number.tolist() == [0, 0, 1, 1, 2]
    assert found.batch(3) == Part(1, 2)


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_epochs_of_batches_by_events_have_equally_many_steps(workers: int) -> None:
    events = np.random.default_rng(0).lognormal(5, 1.0, 60).astype(int).tolist()
    plan = _event_plan(events, rows=1000, workers=workers, epochs=20)
    needed = set()
    for number in range(20):
        epoch = _event_epoch(plan, number)
        assert len(epoch.slot) == plan.steps == epoch.batches.sum()
        held = [sum(group.events or 0 for group in lane) for lane in epoch.lanes]
        assert all(of <= 10 * epoch.batches[lane // 2] for lane, of in enumerate(held))
        needed.add(sum(-(-max(held[2 * slot : 2 * slot + 2]) // 10) for slot in range(workers)))
    assert max(needed) == plan.steps
    assert len(needed) > 1, "some epochs needed fewer"


def test_steps_too_many_go_to_the_slot_with_the_largest_batches() -> None:
    plan = _event_plan([30, 30, 20, 20], workers=2, seed=None)
    assert plan.steps == 5
    vars(plan)["_steps"] = 10  # as if another epoch needed so many
    assert _event_epoch(plan, 0).batches.tolist() == [6, 4]


def test_a_lane_is_not_cut_into_more_parts_than_it_has_rows() -> None:
    plan = _event_plan([1000, 1000], rows=3)
    assert plan.steps == 3
    more = _event_plan([1000, 10, 10], rows=1, world_size=1, workers=3)
    assert more.steps == 3 and _event_epoch(more, 0).batches.tolist() == [1, 1, 1]
