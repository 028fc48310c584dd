"""The custom op: its fake form and torch.compile's view of it."""

import pytest
import torch

from dist_rec.kernels.jagged_range import jagged_range
from dist_rec.kernels.jagged_range.op import jagged_numbers
from tests.kernels.jagged_range.test_kernels import DEVICE

OFFSETS = torch.tensor([0, 3, 3, 5], dtype=torch.int32)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("first", [None, torch.tensor([5, 6, 7])])
def test_the_custom_op_is_sound(first: torch.Tensor | None, dtype: torch.dtype) -> None:
    there = None if first is None else first.to(DEVICE)
    torch.library.opcheck(jagged_numbers, (there, OFFSETS.to(DEVICE), 5, -1, 4, dtype))


def test_numbers_in_other_memory() -> None:
    every_other = torch.tensor([0, 9, 3, 9, 3, 9, 5], dtype=torch.int64)[::2].to(DEVICE)
    first = torch.arange(6)[::2].to(DEVICE)
    assert jagged_range(first, every_other, 5, backend="triton").tolist() == [0, 1, 2, 4, 5]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"step": 2}, "step must be -1, 0 or 1, got 2"),
        ({"dtype": torch.int8}, "dtype must be int32 or int64"),
        ({"first": torch.zeros(2, dtype=torch.int64)}, r"first must be \(B,\) and offsets \(B \+ 1,\)"),
        ({"first": torch.zeros(3)}, "first must be one-dimensional, int32 or int64"),
        ({"total": 6}, "offsets"),
        ({"offsets": OFFSETS[:0]}, "offsets"),
        ({"first": torch.zeros(3, dtype=torch.int64, device="meta")}, "first must be on the device of offsets"),
    ],
)
def test_bad_input(change: dict[str, object], said: str) -> None:
    given = {"first": None, "offsets": OFFSETS, "total": 5} | change
    with pytest.raises(ValueError, match=said):
        jagged_range(**given)  # pyright: ignore[reportArgumentType]
