import pytest
import torch
from hypothesis import given, settings

from tests.kernels.prefix_sum.cases import Case, assert_true, cases


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_equals_the_truth(case: Case) -> None:
    sums, grad = case.run("torch")
    for got, exact in zip((sums, grad), case.run("reference"), strict=True):
        torch.testing.assert_close(got, exact, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(case=cases())
@settings(max_examples=20, deadline=None)
def test_low_precision(case: Case, dtype: torch.dtype) -> None:
    assert_true(case.to(dtype), "torch")
