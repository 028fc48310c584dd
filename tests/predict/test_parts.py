"""Parts, batches and who computes them: every request once, in whole batches, whatever the number of ranks."""

import pytest

from dist_rec.data.plan import Rows
from dist_rec.predict.parts import MOST, Parts, Schedule


@pytest.mark.parametrize("requests", [1, 4, 5, 6, 99, 100, 101])
@pytest.mark.parametrize("wanted", [1, 7, 20, None])
def test_batches_are_those_of_the_whole_in_order(requests: int, wanted: int | None) -> None:
    parts = Parts.of(requests, 5, wanted)
    rows = list(parts.batches_of_all())
    assert [of.first for of in rows] == list(range(0, requests, 5)), "as an evaluation on one rank cuts them"
    assert sum(of.count for of in rows) == requests and max(of.count for of in rows) <= 5
    assert parts.per_part % 5 == 0 and sum(parts.rows(part).count for part in range(len(parts))) == requests


def test_a_small_prediction_has_parts_for_many_ranks_and_a_large_one_no_more_than_it_needs() -> None:
    assert len(Parts.of(4_000, 100, None)) == 20, "of 200, the next whole batch after 125"
    assert Parts.of(10**9, 128, None).per_part == MOST
    assert Parts.of(1_000, 128, 130).per_part == 256


@pytest.mark.parametrize("ranks", [1, 2, 3, 7])
@pytest.mark.parametrize("missing", [[0, 1, 2, 3], [1, 3], [2], []])
def test_every_missing_part_is_of_one_rank_and_all_ranks_have_as_many_steps(ranks: int, missing: list[int]) -> None:
    parts = Parts.of(37, 5, 10)  # of 10, 10, 10 and 7 requests
    schedule = Schedule.of(parts, missing, ranks)
    turns = [schedule.of_rank(rank) for rank in range(ranks)]
    assert {len(own) for own in turns} == {schedule.steps}
    done = [turn for own in turns for turn in own if turn is not None]
    assert [(turn.part, turn.rows) for turn in done] == [
        (part, rows) for part in missing for rows in parts.batches(part)
    ]
    assert [turn.part for turn in done if turn.is_last] == missing
    total = sum(parts.rows(part).count for part in missing)
    assert [*schedule.done()][-1:] == ([total] if missing else [])
    assert [*schedule.done()] == sorted(schedule.done())


def test_a_rank_has_parts_that_follow_each_other() -> None:
    schedule = Schedule.of(Parts.of(40, 10, 10), [0, 1, 2, 3], 2)
    assert [[turn.part for turn in own] for own in schedule.turns] == [[0, 1], [2, 3]]
    assert schedule.turns[1][0].rows == Rows(20, 10)
