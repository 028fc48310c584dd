"""Which candidates are trained, how many of each task, and what others say. Visible events: test_event_filter.py."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.collate import collate
from dist_rec.data.outcome import num_targets, outcome, trained
from dist_rec.data.targets import Targets, read_labels
from tests.data.later import ACTIONS, HORIZON, LABELS, filter_of, later_rows, later_schema, left_of, reading_of
from tests.data.requests import make_table

SCHEMA = later_schema(hidden=True)
NOW = st.none() | st.integers(950, 1_350)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    count=st.integers(0, 6),
    now=NOW,
    action=st.sampled_from(ACTIONS),
    corrected=st.booleans(),
)
def test_candidates_with_a_loss_by_task(
    seed: int, count: int, now: int | None, action: str | None, corrected: bool
) -> None:
    rows, moment = later_rows(count, seed), math.inf if now is None else now
    reading = reading_of(rows, SCHEMA, action)
    labels = read_labels(reading, Targets(now, corrected))
    every = [of for candidates in left_of(rows, action) for of in candidates]
    there = [of["trained"] and of["now"] <= moment for of in every]
    assert trained(reading, labels).tolist() == there
    known = {
        "back": [of["back.matured"] == 1 for of in every],
        "convert": [corrected or moment - of["now"] >= HORIZON for of in every],
    }
    always = [True] * len(every)
    numbers = tuple(sum(a and b for a, b in zip(there, known.get(label, always), strict=True)) for label in LABELS)
    assert num_targets(reading, labels, np.zeros_like(labels.mature)) == numbers
    assert num_targets(reading, labels, np.ones(labels.mature.shape)) == (sum(there),) * len(LABELS), "all are taught"

    came = outcome(reading, labels)
    assert set(came) == {"labels", *(("observed", "waited") if corrected else ())}
    for values in came.values():
        assert values.shape == (len(every), len(LABELS)) and values[~np.array(there, bool)].isnan().all()
    assert num_targets(reading, labels, np.zeros_like(labels.mature)) == numbers, "also after labels of others are gone"
    by_task = (~came["observed" if corrected else "labels"].isnan()).sum(0).tolist()
    assert all(of <= number for of, number in zip(by_task, numbers, strict=True))
    click, back, convert = (LABELS.index(label) for label in ("click", "back", "convert"))
    assert [by_task[place] for place in (click, back, convert)] == [numbers[place] for place in (click, back, convert)]


def test_one_number_where_no_label_takes_time() -> None:
    rows, schema = later_rows(12), later_schema(delayed={})
    reading = reading_of(rows, schema)
    labels = read_labels(reading, Targets(now=1_100))
    served = sum(len(row["candidate.item"]) for row in rows if row["time"] <= 1_100)
    assert num_targets(reading, labels, np.zeros_like(labels.mature)) == (served,) and 0 < served < len(labels.final)
    sent = collate(make_table(rows, schema), schema, targets=Targets(now=1_100))
    assert sent.tensors["candidates_per_rank"].shape == () and float(sent.tensors["candidates_per_rank"]) == served


@pytest.mark.parametrize("action", ["mask", "drop"])
def test_the_truth_of_those_that_are_not_trained_is_gone_too(action: str) -> None:
    schema = later_schema(
        hidden=True, labels=["click", "buy"], delayed={"click": {"horizon": 5}}, given={}, oracle=True
    )
    rows = [row | {"candidate.click.delay": [0] * len(row["candidate.item"])} for row in later_rows(12)]
    reading = reading_of(rows, schema, action)
    labels = read_labels(reading, Targets(now=1_100))
    oracle, there = outcome(reading, labels)["oracle"].numpy(), trained(reading, labels)
    assert (np.isnan(oracle).all(1) == ~there).all() and np.isfinite(oracle[there]).all()
    assert 0 < there.sum() < len(there)


def test_evaluation_knows_every_label_and_what_a_filter_chose() -> None:
    """Labels that are final by now: only training has another moment."""
    rows = later_rows(9)
    served, acting = SCHEMA.as_served(), filter_of(SCHEMA, "drop")
    assert acting is not None
    table = make_table(rows, served)
    sent = collate(table, served, event_filter=type(acting)(acting.policy, training=False, histories=False))
    every = [of for candidates in left_of(rows, None) for of in candidates]
    assert sent.tensors["chosen"].tolist() == [of["item"] % 3 == 0 for of in every]
    expected = [[of["click"], of["buy"] if of["click"] else None, None, of["convert"]] for of in every]
    for values, of, (click, buy, _, convert) in zip(sent.tensors["labels"].tolist(), every, expected, strict=True):
        assert values[0] == click and values[3] == convert
        assert math.isnan(values[1]) if buy is None else values[1] == buy
        assert math.isnan(values[2]) if not of["back.matured"] else values[2] == of["back"]


@pytest.mark.parametrize("corrected", [False, True])
def test_a_late_label_may_have_a_condition(corrected: bool) -> None:
    """Of five candidates three were clicked; at 1,050 no purchase within 100 seconds is final."""
    row = next(row for row in later_rows(99, seed=3) if len(row["candidate.item"]) == 5)
    told = {"time": 1_000, "candidate.click": [1, 1, 1, 0, 0], "candidate.convert": [1, 1, 0, 0, 0]}
    told |= {"candidate.convert.delay": [10, 90, 0, 0, 0], "history.time": [0] * len(row["history.item"])}
    told |= {"feedback.time": [1_200] * len(row["feedback.time"])}
    schema = later_schema(given={"buy": "click", "convert": "click"})
    place = LABELS.index("convert")

    def at(now: int) -> tuple[list[float], float]:
        sent = collate(make_table([row | told], schema), schema, targets=Targets(now, corrected, taught={}))
        name = "observed" if corrected else "labels"
        return sent.tensors[name][:, place].nan_to_num(-1).tolist(), sent.num_targets[place]

    assert at(1_050) == ([1, 0, 0, -1, -1] if corrected else [-1] * 5, 5.0 if corrected else 2.0)
    assert at(1_100) == ([1, 1, 0, -1, -1], 5.0)
