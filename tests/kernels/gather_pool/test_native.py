"""The C++ gather of a CPU, against the truth."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dist_rec.kernels.gather_pool import expand_add
from tests.kernels.gather_pool.cases import ADDING, assert_near, assert_same, assert_truth, forms, make_case

GATHERING = ("expand", *ADDING)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 64])
@pytest.mark.parametrize("lengths", [[3, 0, 14, 22, 1], [1], [0, 0], [], [5000]], ids=str)
@pytest.mark.parametrize("operation", GATHERING)
def test_output_and_gradients(operation: str, lengths: list[int], width: int) -> None:
    """One row in seven never occurs."""
    assert_truth(make_case(lengths, 7, width, used=6).to(torch.float32), operation, "native")


@given(st.lists(st.integers(0, 9), max_size=8), st.integers(1, 12), st.integers(1, 40), st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_any_lengths(lengths: list[int], num_rows: int, width: int, seed: int) -> None:
    case = make_case(lengths, num_rows, width, seed=seed).to(torch.float32)
    for operation in GATHERING:
        assert_near(case, operation, "native")


@pytest.mark.parametrize("operation", GATHERING)
def test_every_form_of_the_index(operation: str) -> None:
    case = make_case([9, 0, 30, 5], 11, 4).to(torch.float32)
    expected = case.run_with_gradients(operation, "native")
    for form in forms(case):
        assert_same(form.run_with_gradients(operation, "native"), expected)


@pytest.mark.parametrize("operation", GATHERING)
def test_threads_change_no_bit(operation: str) -> None:
    case = make_case([4000], 50, 70).to(torch.float32)
    expected, threads = case.run_with_gradients(operation, "native"), torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        assert_same(case.run_with_gradients(operation, "native"), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("operation", GATHERING)
def test_strided_rows_and_an_expanded_gradient(operation: str) -> None:
    case = make_case([4, 2], 5, 6).to(torch.float32)
    strided = replace(case, rows=torch.stack([case.rows, -case.rows], 1)[:, 0])
    assert not strided.rows.is_contiguous()
    assert_same(strided.run_with_gradients(operation, "native"), case.run_with_gradients(operation, "native"))
    rows = case.rows.clone().requires_grad_()
    replace(case, rows=rows).run(operation, "native").sum().backward()
    assert rows.grad is not None and rows.grad.isfinite().all()


def test_a_table_without_a_gradient() -> None:
    case = make_case([4, 2], 5, 6).to(torch.float32)
    table = case.tables[0].clone().requires_grad_()
    expand_add(case.rows, case.inverse, [(table, case.indices[0])], backend="native").sum().backward()
    counts = torch.bincount(case.indices[0], minlength=len(table))
    assert table.grad is not None and torch.equal(table.grad, counts[:, None].expand_as(table).float())


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_an_index_outside_raises_and_reads_nothing(wrong: int) -> None:
    case = make_case([4], 5, 3).to(torch.float32)
    inverse = case.inverse.long()
    inverse[1] = wrong
    with pytest.raises(IndexError, match=r"index must be in \[0, 5\), got"):
        replace(case, inverse=inverse).run("expand_add", "native")


def test_gelu_of_large_numbers_and_of_nan() -> None:
    rows = torch.tensor([[-1e30, -50.0, -8.0, -1e-20, 0.0, 1e-20, 8.0, 50.0, 1e30, torch.nan]]).requires_grad_()
    out = expand_add(rows, torch.zeros(1, dtype=torch.int32), [], gelu=True, backend="native")
    out.sum().backward()
    plain = rows.detach().clone().requires_grad_()
    torch.nn.functional.gelu(plain).sum().backward()
    torch.testing.assert_close(out, torch.nn.functional.gelu(rows), equal_nan=True, rtol=1e-6, atol=2e-6)
    torch.testing.assert_close(rows.grad, plain.grad, equal_nan=True, rtol=1e-6, atol=2e-6)
