"""Both directions against the truth; in Triton's interpreter where there is no GPU."""

import pytest
import torch
from hypothesis import given, settings

from tests.kernels.slot_attention.cases import Case, assert_true, cases, make_case

# Triton's interpreter computes with numpy, which warns where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@given(case=cases())
@settings(max_examples=12, deadline=None)
def test_equals_the_truth(case: Case, dtype: torch.dtype) -> None:
    assert_true(case.to(dtype), "triton")


@pytest.mark.parametrize("size", [32, 48, 64, 128])
def test_wide_heads(size: int) -> None:
    assert_true(make_case(11, 4, 2, size).to(torch.float32), "triton")


def test_a_slot_alone_has_no_gradient_of_its_score() -> None:
    """Softmax over one slot is constant: dq and dk are zero to the bit."""
    case = make_case(9, 4, 2, 8).to(torch.float32)
    case.real[:] = torch.tensor([False, False, False, True])
    _, grad = case.run("triton")
    assert not grad[:, :, :2].any() and grad[:, 3, 2].all()


def test_padding_changes_nothing() -> None:
    """What stands in slots that are not real reaches no other slot."""
    case = make_case(9, 4, 2, 8).to(torch.float32)
    other = Case(torch.where(case.real[:, :, None, None, None], case.qkv, 1e4), case.real)
    (out, grad), (same, _) = case.run("triton"), other.run("triton")
    assert torch.equal(out[case.real], same[case.real])
    assert not grad[:, :, 1:][~case.real].any(), "nor do they get a gradient as keys and values"
