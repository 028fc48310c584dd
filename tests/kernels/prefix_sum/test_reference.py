"""The definition against sums written out, and what the operator refuses."""

from typing import Any

import pytest
import torch
from torch import Tensor

from dist_rec.kernels.prefix_sum import prefix_sum

ROWS = torch.arange(10, dtype=torch.float64).view(5, 2)


def _ints(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def test_whole_sequences() -> None:
    out = prefix_sum(ROWS, _ints(0, 2, 2, 5), backend="reference")
    assert out.tolist() == [[2.0, 4.0], [0.0, 0.0], [18.0, 21.0]]


def test_prefixes() -> None:
    out = prefix_sum(ROWS, _ints(0, 2, 5), _ints(0, 1, 4), _ints(1, 0, 2, 9), backend="reference")
    assert out.tolist() == [[0.0, 1.0], [0.0, 0.0], [10.0, 12.0], [18.0, 21.0]]


def test_low_precision_is_summed_in_fp32() -> None:
    """A bf16 sum of ones stops growing at 256."""
    ones = torch.ones(1000, 1, dtype=torch.bfloat16)
    assert prefix_sum(ones, _ints(0, 1000), backend="reference").tolist() == [[1000.0]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ROWS.long()}, r"rows must be \(N, W\) of a floating dtype, got \(5, 2\) torch.int64"),
        ({"prefix_len": None}, "expected both prefix_offsets and prefix_len, or neither"),
        ({"offsets": torch.zeros(2)}, r"offsets must be one-dimensional, int32 or int64, got \(2,\) torch.float32"),
        ({"offsets": _ints(0, 4)}, "offsets must begin at 0 and never fall, up to 5, got"),
        ({"prefix_offsets": _ints(0, 1, 1)}, r"must be \(B \+ 1,\), got \(2,\) and \(3,\)"),
        ({"prefix_offsets": _ints(0, 2)}, "prefix_offsets must begin at 0 and never fall, up to 1"),
        ({"prefix_len": _ints(-1)}, "prefix_len must be at least 0, got -1"),
        (
            {"prefix_len": torch.zeros(1, dtype=torch.int32, device="meta")},
            "must be on the device of rows, cpu, got meta",
        ),
    ],
)
def test_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    right = {"rows": ROWS, "offsets": _ints(0, 5), "prefix_offsets": _ints(0, 1), "prefix_len": _ints(3)}
    assert prefix_sum(**right).shape == (1, 2)
    with pytest.raises(ValueError, match=message):
        prefix_sum(**right | change)
