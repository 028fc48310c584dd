"""What is refused, and that the message says what was expected and what came."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dist_rec.kernels.gather_pool import expand, expand_add, pool
from dist_rec.kernels.gather_pool.checks import why_not_triton
from dist_rec.kernels.unique_ids import Segments, segments_of
from tests.kernels.gather_pool.cases import OPERATIONS, Case, make_case

CASE = make_case([3, 2], 4, 3).to(torch.float32)
ORDER, BEGINS = torch.zeros(5, dtype=torch.int32), torch.zeros(5, dtype=torch.int32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": torch.zeros(3)}, r"rows must be \(U, D\) of a floating dtype, got \(3,\) torch.float32"),
        ({"rows": torch.zeros(3, 2).long()}, r"floating dtype, got \(3, 2\) torch.int64"),
        ({"inverse": torch.zeros(5)}, r"inverse must be one-dimensional, int32 or int64, got \(5,\) torch.float32"),
        ({"inverse": torch.zeros(5, 1).int()}, r"got \(5, 1\) torch.int32"),
        ({"inverse": CASE.inverse.to("meta")}, "inverse must be on the device of rows, cpu, got meta"),
        ({"segments": Segments(ORDER[:4], BEGINS)}, r"segments.order must be \(5,\) int32, got \(4,\) torch.int32"),
        ({"segments": Segments(ORDER, BEGINS[:4])}, r"segments.offsets must be \(5,\) int32, got \(4,\)"),
        ({"segments": Segments(ORDER.long(), BEGINS)}, r"segments.order must be \(5,\) int32, got \(5,\) torch.int64"),
        ({"segments": Segments(ORDER.to("meta"), BEGINS)}, "segments.order must be on the device of rows"),
    ],
)
@pytest.mark.parametrize("operation", ["expand", "sum", "expand_add"])
def test_rows_and_their_index(operation: str, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CASE, **change).run(operation, "auto")


@pytest.mark.parametrize(
    ("offsets", "message"),
    [
        (torch.zeros(0, dtype=torch.int32), r"offsets must be \(B \+ 1,\), got \(0,\)"),
        (torch.zeros(2), r"offsets must be one-dimensional, int32 or int64, got \(2,\) torch.float32"),
        (torch.tensor([0, 3]), r"offsets must begin at 0 and never fall, up to 5, got \[0, 3\]"),
        (torch.tensor([1, 5]), r"got \[1, 5\]"),
        (torch.tensor([0, 4, 3, 5]), r"got \[0, 4, 3, 5\]"),
        (torch.tensor([0, 5], device="meta"), "offsets must be on the device of rows, cpu, got meta"),
    ],
)
def test_bags(offsets: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CASE, offsets=offsets).run("mean", "auto")


def test_an_unknown_mode() -> None:
    with pytest.raises(ValueError, match="mode must be one of sum, mean, last, max, got 'median'"):
        pool(CASE.rows, CASE.inverse, CASE.offsets, mode="median")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("table", "index", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(5).int(), r"table 0 must be \(K, 3\) of a floating dtype, got \(3, 4\)"),
        (torch.zeros(3, 3).int(), torch.zeros(5).int(), r"got \(3, 3\) torch.int32"),
        (torch.zeros(3, 3), torch.zeros(5), "index 0 must be one-dimensional, int32 or int64"),
        (torch.zeros(3, 3), torch.zeros(4).int(), "index 0 must have the length of inverse, 5, got 4"),
        (torch.zeros(3, 3, device="meta"), torch.zeros(5).int(), "table 0 must be on the device of rows"),
        (torch.zeros(3, 3), torch.zeros(5, device="meta").int(), "index 0 must be on the device of rows"),
    ],
)
def test_terms(table: torch.Tensor, index: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expand_add(CASE.rows, CASE.inverse, [(table, index)])


def test_too_many_terms() -> None:
    term = (torch.zeros(3, 3), torch.zeros(5).int())
    with pytest.raises(ValueError, match="at most 4 terms are added in one pass, got 5"):
        expand_add(CASE.rows, CASE.inverse, [term] * 5)


@pytest.mark.parametrize("backend", ["torch", "reference"])
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("wrong", [4, -5])
def test_an_index_outside_raises_on_a_cpu(operation: str, backend: Any, wrong: int) -> None:
    case = replace(CASE, inverse=torch.full_like(CASE.inverse, wrong))
    with pytest.raises((IndexError, RuntimeError)):
        case.run(operation, backend)


@pytest.mark.parametrize("wrong", [9, -1])
def test_a_term_does_not_reach_into_its_neighbour(wrong: int) -> None:
    case = replace(CASE, indices=(torch.full_like(CASE.indices[0], wrong), CASE.indices[1]))
    with pytest.raises(IndexError, match=rf"index must be in \[0, 9\), got {wrong} to {wrong}"):
        case.run("expand_add", "torch")


def test_the_kernels_have_no_float64() -> None:
    assert why_not_triton(CASE.rows) == ""
    double = CASE.to(torch.float64)
    assert why_not_triton(CASE.rows, double.rows) == "the kernels take fp32, fp16 and bf16, got torch.float64"
    with pytest.raises(ValueError, match="backend='triton' cannot run: the kernels take fp32"):
        expand(double.rows, double.inverse, backend="triton")


def test_segments_are_taken_as_they_are() -> None:
    case: Case = replace(CASE, segments=segments_of(CASE.inverse, len(CASE.rows)))
    for operation in OPERATIONS:
        case.run_with_gradients(operation, "torch")
