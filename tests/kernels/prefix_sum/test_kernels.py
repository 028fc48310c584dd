"""Both kernels against the truth; in Triton's interpreter where there is no GPU."""

import pytest
import torch
from hypothesis import given, settings

from tests.kernels.prefix_sum.cases import Case, assert_true, cases, make_case


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@given(case=cases())
@settings(max_examples=25, deadline=None)
def test_equals_the_truth(case: Case, dtype: torch.dtype) -> None:
    assert_true(case.to(dtype), "triton")


@pytest.mark.parametrize("width", [1, 16, 100, 300])
def test_every_width(width: int) -> None:
    assert_true(make_case([40, 0, 90], [[3, 40], [0], [64]], width).to(torch.float32), "triton")


@pytest.mark.parametrize("prefixes", [None, [[2, 33, 40], []]])
def test_what_comes_after_a_prefix_changes_no_bit(prefixes: list[list[int]] | None) -> None:
    """Nor do other sequences."""
    case = make_case([50, 20], prefixes or [[50], [20]], 8).to(torch.float32)
    alone = make_case([50], [prefixes[0] if prefixes else [50]], 8).to(torch.float32)
    assert torch.equal(alone.rows, case.rows[:50])
    case.rows[40 if prefixes else 50 :] = 1e6
    assert torch.equal(case.run("triton")[0][: len(alone.prefixes[1])], alone.run("triton")[0])
