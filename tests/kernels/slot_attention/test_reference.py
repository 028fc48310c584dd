"""The definition against a loop, and what the operator refuses."""

from typing import Any

import pytest
import torch

from dist_rec.kernels.slot_attention import slot_attention
from tests.kernels.slot_attention.cases import make_case


def test_equals_a_loop() -> None:
    case = make_case(5, 4, 2, 3)
    case.real[1] = False
    out = slot_attention(case.qkv, case.real, backend="reference")
    for m, group in enumerate(case.qkv):
        for h in range(2):
            q, k, v = group[:, :, h].unbind(1)
            for i in range(4):
                real = case.real[m]
                expected = torch.zeros(3, dtype=torch.float64)
                if real.any():
                    e = ((k[real] @ q[i]) / 3**0.5).exp()
                    expected = (e / e.sum()) @ v[real]
                torch.testing.assert_close(out[m, i, h], expected, rtol=0.0, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(2, 4, 3, 8)}, r"qkv must be \(M, K, 3, H, D\) of a floating dtype, got \(2, 4, 3, 8\)"),
        ({"qkv": torch.zeros(2, 4, 2, 1, 8)}, r"qkv must be \(M, K, 3, H, D\)"),
        ({"real": torch.ones(2, 4)}, r"real must be \(2, 4\) bool, got \(2, 4\) torch.float32"),
        ({"real": torch.ones(2, 3, dtype=torch.bool)}, r"real must be \(2, 4\) bool, got \(2, 3\)"),
        ({"real": torch.ones(2, 4, dtype=torch.bool, device="meta")}, "must be on the device of qkv, cpu, got meta"),
        (
            {"qkv": torch.zeros(2, 4, 3, 1, 8).double(), "backend": "triton"},
            "take fp32, fp16 and bf16, got torch.float64",
        ),
    ],
)
def test_says_what_is_wrong(change: dict[str, Any], message: str) -> None:
    right = {"qkv": torch.zeros(2, 4, 3, 1, 8), "real": torch.ones(2, 4, dtype=torch.bool)}
    assert slot_attention(**right).shape == (2, 4, 1, 8)
    with pytest.raises(ValueError, match=message):
        slot_attention(**right | change)


def test_more_slots_than_the_kernel_takes() -> None:
    case = make_case(3, 17, 1, 4)
    assert torch.isfinite(slot_attention(case.qkv, case.real)).all(), "on a GPU torch's own attention takes them"
    with pytest.raises(ValueError, match="up to 16 slots and heads of 128, got 17, 4"):
        slot_attention(case.qkv.float(), case.real, backend="triton")
