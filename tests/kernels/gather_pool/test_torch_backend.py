"""What runs on a CPU, against the truth."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.kernels.gather_pool.cases import OPERATIONS, Case, assert_near, assert_same, assert_truth, forms, make_case

LENGTHS = {"several": [3, 0, 14, 22, 1], "one": [1], "empty bags": [0, 0], "no bag": []}


@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_float64(operation: str, lengths: list[int]) -> None:
    case = make_case(lengths, 7, 5, used=6)
    for mine, wanted in zip(
        case.run_with_gradients(operation, "torch"), case.run_with_gradients(operation, "reference")
    ):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("lengths", LENGTHS.values(), ids=LENGTHS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_output_and_gradients(operation: str, lengths: list[int], dtype: torch.dtype) -> None:
    """One row in seven never occurs."""
    assert_truth(make_case(lengths, 7, 5, used=6).to(dtype), operation, "torch")


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_any_lengths(lengths: list[int], num_rows: int, seed: int) -> None:
    case = make_case(lengths, num_rows, 3, seed=seed).to(torch.float32)
    for operation in OPERATIONS:
        assert_near(case, operation, "torch")


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_form_of_the_index(operation: str) -> None:
    case = make_case([9, 0, 30, 5], 11, 4).to(torch.float32)
    expected = case.run_with_gradients(operation, "torch")
    for form in forms(case):
        assert_same(form.run_with_gradients(operation, "torch"), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_rows(operation: str) -> None:
    """A batch without events on this rank."""
    out, *gradients = make_case([0, 0], 0, 4).to(torch.float32).run_with_gradients(operation, "torch")
    assert not out.any() and [len(x) for x in gradients] == [0, 9, 2][: len(gradients)]


@pytest.mark.parametrize("operation", OPERATIONS)
def test_strided_rows_and_an_expanded_gradient(operation: str) -> None:
    case = make_case([4, 2], 5, 6).to(torch.float32)
    strided = replace(case, rows=torch.stack([case.rows, -case.rows], 1)[:, 0])
    assert not strided.rows.is_contiguous()
    assert_same(strided.run_with_gradients(operation, "torch"), case.run_with_gradients(operation, "torch"))
    rows = case.rows.requires_grad_()
    total = replace(case, rows=rows).run(operation, "torch")
    expected = torch.autograd.grad(total, rows, torch.ones_like(total), retain_graph=True)
    assert_same(torch.autograd.grad(total.sum(), rows), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_compiled_equals_eager(operation: str) -> None:
    torch.compiler.reset()
    case = make_case([4, 0, 2], 5, 6).to(torch.float32)
    rows = case.rows.requires_grad_()
    results = []
    for function in (Case.run, torch.compile(Case.run, fullgraph=True, backend="aot_eager")):
        out = function(replace(case, rows=rows), operation, "torch")
        results.append((out, *torch.autograd.grad(out.square().sum(), rows)))
    assert_same(*results)


def test_autocast_changes_nothing() -> None:
    case = make_case([4, 2], 5, 6).to(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert all(case.run(operation, "auto").dtype == torch.float32 for operation in OPERATIONS)


def test_tables_of_another_dtype() -> None:
    """fp32 parameters beside bf16 rows: the sum is taken in fp32, and each gradient has the dtype of its table."""
    case = make_case([4, 2], 5, 6).to(torch.float32)
    mixed = replace(case, rows=case.rows.bfloat16())
    results = [mixed.run_with_gradients("expand_add", backend) for backend in ("torch", "reference")]
    assert [x.dtype for x in results[0]] == [x.dtype for x in results[1]] == [torch.bfloat16] * 2 + [torch.float32] * 2
    assert torch.equal(results[0][0], results[1][0])
