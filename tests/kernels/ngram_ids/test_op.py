"""The custom op: its fake form, and what is refused."""

import pytest
import torch

from dist_rec.kernels.ngram_ids import ngram_ids
from dist_rec.kernels.ngram_ids.op import ngram_rows
from tests.kernels.ngram_ids.cases import DEVICE

VALUES = torch.tensor([4, 2, 6, 1, 0])
OFFSETS = torch.tensor([0, 3, 3, 5], dtype=torch.int32)
HEADS = torch.tensor([[2, 29, 0, 5, 1, 9, 0], [3, 101, 29, 6, 1, 9, 81]])


@pytest.mark.parametrize("polynomial", [False, True])
@pytest.mark.parametrize("times", [None, VALUES])
def test_the_custom_op_is_sound(times: torch.Tensor | None, polynomial: bool) -> None:
    there = None if times is None else times.to(DEVICE)
    given = VALUES.to(DEVICE), OFFSETS.to(DEVICE), HEADS.to(DEVICE), polynomial, 6, there, 3
    torch.library.opcheck(ngram_rows, given)


def test_numbers_in_other_memory() -> None:
    apart = VALUES.repeat_interleave(2).to(DEVICE)[::2]
    found = ngram_ids(apart, OFFSETS.to(DEVICE), HEADS.T.contiguous().T.to(DEVICE), times=apart, backend="triton")
    assert torch.equal(found.cpu(), ngram_ids(VALUES, OFFSETS, HEADS, times=VALUES, backend="reference"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"values": VALUES.int()}, r"values must be \(N,\) int64"),
        ({"heads": HEADS[:, :4]}, r"heads must be \(M, 4 \+ O\) int64"),
        ({"heads": HEADS.int()}, "heads must be"),
        ({"offsets": OFFSETS.float()}, r"offsets must be \(B \+ 1,\)"),
        ({"offsets": OFFSETS[:-1]}, "offsets must begin at 0"),
        ({"times": VALUES[:3]}, r"times must be \(5,\)"),
        ({"times": VALUES.to("meta")}, "times must be on the device of values"),
        ({"gap": -1}, "gap must be at least 0"),
    ],
)
def test_bad_input(change: dict[str, object], said: str) -> None:
    given = {"values": VALUES, "offsets": OFFSETS, "heads": HEADS} | change
    with pytest.raises(ValueError, match=said):
        ngram_ids(**given)  # pyright: ignore[reportArgumentType]
