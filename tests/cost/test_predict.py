"""Seconds of an operator by hand, and their sums by stage."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dist_rec.cost.ledger import Operator
from dist_rec.cost.machine import machine_of
from dist_rec.cost.predict import operator_s, stages_of
from dist_rec.cost.stages import STAGES, StepCount

H100 = machine_of("h100-80gb")
BYTES, FLOPS = 0.75 * 3.35e12, 0.6 * 989e12


def _operator(nbytes: int = 0, flops: int = 0, **changes: object) -> Operator:
    known: dict[str, object] = {"stage": "layers", "name": "x", "kind": "matmul", "dim": 64, "half": True}
    return Operator(**(known | {"nbytes": nbytes, "flops": flops} | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("operator", "seconds"),
    [
        (_operator(10**9, 10**9), 1e9 / BYTES),
        (_operator(10**6, 10**12), 1e12 / FLOPS),
        (_operator(10**6, 10**12, half=False), 1e12 / (0.6 * 67e12)),
        (_operator(10**6, 10**12, kind="attention"), 2e12 / FLOPS),
        (_operator(10**9, kind="gather"), 1e9 / (0.7 * BYTES)),
        (_operator(), 0.0),
    ],
)
def test_an_operator_takes_the_longer_of_moving_and_computing(operator: Operator, seconds: float) -> None:
    assert operator_s(operator, H100) == pytest.approx(seconds + H100.launch_s)


@given(st.lists(st.tuples(st.sampled_from(STAGES), st.integers(0, 10**9), st.integers(0, 10**12))))
def test_stages_add_up(numbers: list[tuple[str, int, int]]) -> None:
    operators = tuple(_operator(nbytes, flops, stage=stage) for stage, nbytes, flops in numbers)
    found = stages_of(StepCount(operators, 0), H100)
    assert list(found) == list(STAGES)
    assert sum(work.launches for work in found.values()) == len(operators)
    assert sum(work.nbytes for work in found.values()) == sum(each.nbytes for each in operators)
    assert sum(work.flops for work in found.values()) == sum(each.flops for each in operators)
    total = sum(operator_s(each, H100) for each in operators)
    assert sum(work.seconds for work in found.values()) == pytest.approx(total)
