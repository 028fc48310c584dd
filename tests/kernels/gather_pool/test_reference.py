"""The definitions, by hand and against finite differences."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.kernels.gather_pool.cases import ADDING, OPERATIONS, make_case

ROWS = torch.tensor([[1.0, 5.0], [3.0, 2.0], [3.0, -4.0]], dtype=torch.float64)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("lengths", [[4, 0, 3, 1], [0], []], ids=str)
def test_gradients_are_finite_differences(operation: str, lengths: list[int]) -> None:
    case = make_case(lengths, 5, 3, used=4)
    leaves = [x.clone().requires_grad_() for x in (case.rows, *(case.tables if operation in ADDING else ()))]

    def run(rows: Tensor, *tables: Tensor) -> Tensor:
        return replace(case, rows=rows, tables=tables).run(operation, "reference")

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize(
    ("operation", "expected", "gradient"),
    [
        ("sum", [[7, 9], [0, 0], [3, -4]], [[1, 1], [2, 2], [4, 4]]),
        ("mean", [[7 / 3, 3], [0, 0], [3, -4]], [[1 / 3] * 2, [2 / 3] * 2, [4, 4]]),
        ("last", [[3, 2], [0, 0], [3, -4]], [[0, 0], [1, 1], [4, 4]]),
        ("max", [[3, 5], [0, 0], [3, -4]], [[0, 1], [1, 0], [4, 4]]),
    ],
)
def test_pools_by_hand(operation: str, expected: list[list[float]], gradient: list[list[float]]) -> None:
    """Bags of rows (1, 0, 1), nothing, and (2): row 1 is the largest of the first column twice, and is counted once."""
    case = make_case([3, 0, 1], 3, 2)
    rows = ROWS.clone().requires_grad_()
    out = replace(case, rows=rows, inverse=torch.tensor([1, 0, 1, 2])).run(operation, "reference")
    weights = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)[:, None]
    (found,) = torch.autograd.grad((out * weights).sum(), rows)
    torch.testing.assert_close(out.detach(), torch.tensor(expected, dtype=torch.float64))
    torch.testing.assert_close(found, torch.tensor(gradient, dtype=torch.float64))


def test_the_first_of_equals_gets_the_gradient() -> None:
    """Two rows with the same value in one column."""
    case = make_case([2], 3, 2)
    for inverse, winner in (([1, 2], 1), ([2, 1], 2)):
        rows = ROWS.clone().requires_grad_()
        out = replace(case, rows=rows, inverse=torch.tensor(inverse)).run("max", "reference")
        (found,) = torch.autograd.grad(out[:, 0].sum(), rows)
        assert found[:, 0].tolist() == [float(row == winner) for row in range(3)]


def test_sums_are_rounded_once() -> None:
    case = make_case([3], 2, 4).to(torch.float16)
    terms = [table.double()[index] for table, index in zip(case.tables, case.indices)]
    exact = case.rows.double()[case.inverse] + sum(terms)
    assert torch.equal(case.run("expand_add", "reference"), exact.half())
