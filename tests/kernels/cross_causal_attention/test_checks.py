"""What the operator refuses, and what it says."""

import logging
from typing import Any

import pytest
import torch

from dist_rec.kernels.common.backend import log_choice
from dist_rec.kernels.cross_causal_attention import cross_causal_attention


def _call(**changes: Any) -> torch.Tensor:
    """Two requests: 3 rows of 5 keys, 1 row of 2 keys."""
    arguments: dict[str, Any] = {
        "q": torch.randn(4, 2, 8),
        "k": torch.randn(7, 2, 8),
        "v": torch.randn(7, 2, 8),
        "q_offsets": torch.tensor([0, 3, 4]),
        "kv_offsets": torch.tensor([0, 5, 7]),
    }
    return cross_causal_attention(**arguments | changes)


def test_accepts_what_fits() -> None:
    assert _call().shape == (4, 2, 8)
    assert _call(num_candidates=torch.tensor([1, 0]), seen=torch.tensor([2])).shape == (4, 2, 8)
    assert _call(q_positions=torch.tensor([0, 4, 2, 1]), key_valid=torch.ones(7, dtype=torch.bool)).shape == (4, 2, 8)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q": torch.randn(4, 8)}, r"expected q \(sum_q, H, D\).*got q \(4, 8\)"),
        ({"k": torch.randn(7, 8), "v": torch.randn(7, 8)}, r"got q \(4, 2, 8\), k \(7, 8\)"),
        ({"v": torch.randn(6, 2, 8)}, r"k \(7, 2, 8\), v \(6, 2, 8\)"),
        ({"q": torch.randn(4, 2, 4)}, r"got q \(4, 2, 4\)"),
        ({"v": torch.randn(7, 2, 8).double()}, r"must share one floating dtype, got torch.float32, .* torch.float64"),
        ({name: torch.ones(7, 2, 8, dtype=torch.int64) for name in "qkv"}, "must share one floating dtype"),
        ({"q_offsets": torch.tensor([0, 4])}, r"both be \(B \+ 1,\), got \(2,\), \(3,\)"),
        (
            {"q_offsets": torch.tensor([], dtype=torch.int32), "kv_offsets": torch.tensor([], dtype=torch.int32)},
            r"both be \(B \+ 1,\)",
        ),
        ({"num_candidates": torch.tensor([1])}, r"num_candidates must have shape \(2,\), got \(1,\)"),
        ({"q_positions": torch.tensor([1])}, r"q_positions must have shape \(4,\), got \(1,\)"),
        ({"key_valid": torch.ones(4, dtype=torch.bool)}, r"key_valid must have shape \(7,\), got \(4,\)"),
        ({"q_offsets": torch.tensor([0.0, 3.0, 4.0])}, "must be int32 or int64"),
        ({"num_candidates": torch.tensor([1.0, 0.0])}, "must be int32 or int64"),
        ({"causal": False, "num_candidates": torch.tensor([1, 0])}, "num_candidates and q_positions have no meaning"),
        ({"causal": False, "q_positions": torch.tensor([0, 0, 0, 0])}, "num_candidates and q_positions have no meaning"),
        ({"seen": torch.tensor([1])}, "seen needs num_candidates"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"backend": "triton"}, "backend must be one of auto, reference, bucketed, got 'triton'"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _call(**changes)


def test_key_valid_must_be_bool() -> None:
    with pytest.raises(ValueError, match=r"key_valid must be bool, got torch.int64"):
        _call(key_valid=torch.ones(7, dtype=torch.int64))


def test_auto_takes_the_batched_form_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    log_choice.cache_clear()
    caplog.set_level(logging.INFO, "dist_rec.kernels")
    logging.getLogger("dist_rec").propagate = True
    inputs = {name: torch.randn(rows, 2, 8) for name, rows in (("q", 4), ("k", 7), ("v", 7))}
    assert torch.equal(_call(**inputs), _call(**inputs, backend="bucketed"))
    _call(**inputs)
    assert [record.getMessage() for record in caplog.records] == [
        "cross_causal_attention: bucketed (the only batched form on this build)"
    ]
