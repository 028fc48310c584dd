import torch
from hypothesis import given, settings

from tests.kernels.slot_attention.cases import Case, cases


@given(case=cases())
@settings(max_examples=50, deadline=None)
def test_equals_the_truth(case: Case) -> None:
    for got, exact in zip(case.run("torch"), case.run("reference"), strict=True):
        torch.testing.assert_close(got, exact, rtol=0.0, atol=1e-12)
