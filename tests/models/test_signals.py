"""Sums for the log against a loop over candidates, and the ratios made of them."""

from dataclasses import asdict
from math import isnan, log

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.data.batch import Feedback
from dist_rec.data.lengths import Lengths
from dist_rec.models.signals import SUMS, Teaching, teaching_signals

TASKS = 2
NAN = float("nan")
numbers = st.floats(-6.0, 6.0)
labels = st.sampled_from((0.0, 1.0, NAN))
task = st.tuples(numbers, numbers, labels)  # what the student says, the teacher, and the label
CANDIDATES = st.lists(st.tuples(st.booleans(), st.lists(task, min_size=TASKS, max_size=TASKS)), max_size=8)
Candidates = list[tuple[bool, list[tuple[float, float, float]]]]


def _feedback(twin: list[int]) -> Feedback:
    return Feedback(
        lengths=Lengths.of([1] * len(twin)),
        inverse=None,
        side={},
        age=None,
        twins=Lengths.of([len(twin)]),
        twin=torch.tensor(twin, dtype=torch.int64),
        twin_host=np.array(twin, dtype=np.int32),
        distilled=torch.ones(len(twin), TASKS, dtype=torch.bool),
    )


def _found(candidates: Candidates) -> torch.Tensor:
    twin = [i for i, (has, _) in enumerate(candidates) if has]
    values = torch.tensor([of for _, of in candidates], dtype=torch.float32).view(len(candidates), TASKS, 3)
    z, z_teacher, y = values.unbind(2)
    return teaching_signals(z, z_teacher[twin], y, _feedback(twin))


def _sigmoid(z: float) -> float:
    return 1 / (1 + np.exp(-z))


def _expected(candidates: Candidates, task: int) -> list[float]:
    at: dict[str, float] = {name: 0.0 for name in SUMS}
    for has, tasks in candidates:
        z, z_teacher, y = tasks[task]
        p, q, known = _sigmoid(z), _sigmoid(z_teacher), not isnan(y)
        at[{(1, 1): "both", (1, 0): "feedback_only", (0, 1): "label_only", (0, 0): "neither"}[has, known]] += 1
        if not has:
            continue
        at["gap"] += abs(q - p)
        if known:
            at["teacher"] += q
            at["student"] += p
            at["label"] += y
            at["credit_one"] += log(q / p) if y == 1 else 0.0
            at["credit_zero"] += log((1 - q) / (1 - p)) if y == 0 else 0.0
    return list(at.values())


@given(candidates=CANDIDATES)
@settings(max_examples=60, deadline=None)
def test_sums_are_those_of_a_loop(candidates: Candidates) -> None:
    found = _found(candidates)
    assert found.shape == (len(SUMS), TASKS) and found.dtype == torch.float32
    for place in range(TASKS):
        assert found[:, place].tolist() == pytest.approx(_expected(candidates, place), rel=1e-4, abs=1e-4)


def test_sure_sides_are_finite() -> None:
    """A probability that float32 rounds to 0 or 1 still has a logarithm."""
    sure = [(True, [(-90.0, 90.0, 1.0), (90.0, -90.0, 0.0)]), (True, [(90.0, -90.0, 0.0), (0.0, 0.0, NAN)])]
    found = _found(sure)
    at = {name: found[place].tolist() for place, name in enumerate(SUMS)}
    assert found.isfinite().all()
    assert at["credit_one"] == [90.0, 0.0] and at["credit_zero"] == [90.0, 90.0]


def test_ratios() -> None:
    sums = dict(both=6, feedback_only=2, label_only=1, neither=1, gap=2.0, teacher=3.0, student=1.5, label=2.0)
    found = Teaching.of([*sums.values(), 0.5, -1.0])
    assert asdict(found) == pytest.approx(
        {
            "both": 0.6, "feedback_only": 0.2, "label_only": 0.1, "neither": 0.1, "agreement": 0.75,
            "teacher_calibration": 1.5, "student_calibration": 0.75, "credit_of_ones": 0.25, "credit_of_zeros": -0.25,
        }
    )  # fmt: skip


def test_ratios_of_nothing_are_not_numbers() -> None:
    assert all(isnan(value) for value in asdict(Teaching.of([0.0] * len(SUMS))).values())
    without_feedback = asdict(Teaching.of([0.0, 0.0, 3.0, 1.0] + [0.0] * 6))
    known = {name: value for name, value in without_feedback.items() if not isnan(value)}
    assert known == {"both": 0.0, "feedback_only": 0.0, "label_only": 0.75, "neither": 0.25}
    only_zeros = Teaching.of([2.0, 0.0, 0.0, 0.0, 0.5, 0.4, 0.9, 0.0, 0.0, 1.0])
    assert isnan(only_zeros.teacher_calibration) and isnan(only_zeros.credit_of_ones)
    assert only_zeros.credit_of_zeros == 0.5 and only_zeros.agreement == 0.75
    with pytest.raises(ValueError, match="zip"):
        Teaching.of([1.0])
