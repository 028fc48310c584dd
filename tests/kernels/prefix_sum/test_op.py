"""The custom ops: their fake forms, autograd and torch.compile's view of them."""

import pytest
import torch

from dist_rec.kernels.prefix_sum.op import prefix_sums, prefix_sums_backward
from tests.kernels.prefix_sum.cases import DEVICE, make_case

PREFIXES = [None, [[2, 3], [0], [5]]]


@pytest.mark.parametrize("prefixes", PREFIXES, ids=["whole", "prefixes"])
def test_custom_ops_are_sound(prefixes: list[list[int]] | None) -> None:
    case = make_case([3, 0, 6], prefixes, 5).to(torch.float32)
    layout = [x.to(DEVICE) for x in (case.offsets, *case.prefixes)]
    layout += [None] * (3 - len(layout))
    torch.library.opcheck(prefix_sums, (case.rows.to(DEVICE).requires_grad_(), *layout))
    grad = torch.randn(4 if prefixes else 3, 5, device=DEVICE)
    torch.library.opcheck(prefix_sums_backward, (grad, *layout, 9, torch.float16))


def test_rows_with_any_stride() -> None:
    case = make_case([4, 3], None, 6).to(torch.float32)
    turned = case.rows.T.contiguous().T
    assert turned.stride() == (1, 7)
    other = type(case)(turned, case.offsets, case.prefixes)
    for got, expected in zip(other.run("triton"), case.run("triton"), strict=True):
        assert torch.equal(got, expected)
