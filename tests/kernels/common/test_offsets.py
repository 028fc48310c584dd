"""Offsets that are none are said on a CPU, and nothing is read where reading would cost something."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_rec.kernels.common.offsets import check_offsets, readable


@pytest.mark.parametrize(
    ("offsets", "padded"), [([0, 2, 5], False), ([0], True), ([0, 0, 0], True), ([0, 5, 5], False), ([0, 2, 3], True)]
)
def test_offsets_pass(offsets: list[int], padded: bool) -> None:
    check_offsets("offsets", torch.tensor(offsets), 5, padded=padded)


@pytest.mark.parametrize(
    ("offsets", "padded", "message"),
    [
        ([2, 3], True, r"q_offsets must begin at 0 and never fall, up to at most 5, got \[2, 3\]; are these lengths\?"),
        ([0, 3, 2], True, r"got \[0, 3, 2\]"),
        ([0, 6], True, "up to at most 5"),
        ([0, 3], False, "up to 5, got"),
        ([-1, 5], False, "must begin at 0"),
        ([1] * 9, True, "got 1 to 1, 9 values"),
    ],
)
def test_lengths_and_other_slips_are_said(offsets: list[int], padded: bool, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_offsets("q_offsets", torch.tensor(offsets), 5, padded=padded)


def test_what_has_no_values_in_host_memory_is_not_read() -> None:
    plain = torch.tensor([0, 1])
    assert readable(plain, None) and not readable(plain, torch.empty(2, device="meta"))
    with FakeTensorMode():
        assert not readable(torch.empty(2))
    assert not torch.compile(lambda x: readable(x), backend="eager")(plain)
