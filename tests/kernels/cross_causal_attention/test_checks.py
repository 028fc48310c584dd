"""What the operator refuses, and what it says."""

import logging
import re
from typing import Any
from unittest import mock

import pytest
import torch

from dist_rec.kernels.common import backend as backend_module
from dist_rec.kernels.common.backend import _log_once
from dist_rec.kernels.cross_causal_attention import Backend, cross_causal_attention
from dist_rec.kernels.cross_causal_attention.checks import LARGEST_HEAD, why_not_triton

without_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="says what happens without a GPU")


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
    assert _call(num_candidates=torch.tensor([1, 0]), prefix_len=torch.tensor([2])).shape == (4, 2, 8)
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
        (
            {"causal": False, "q_positions": torch.tensor([0, 0, 0, 0])},
            "num_candidates and q_positions have no meaning",
        ),
        ({"prefix_len": torch.tensor([1])}, "prefix_len needs num_candidates"),
        ({"group_size": 0}, "group_size must be at least 1, got 0"),
        ({"backend": "cuda"}, "backend must be one of auto, triton, native, bucketed, reference, got 'cuda'"),
        ({"q": torch.randn(4, 3, 8)}, r"key-value heads must divide the query heads, got q \(4, 3, 8\), k \(7, 2, 8\)"),
        ({"q": torch.randn(4, 1, 8)}, "key-value heads must divide the query heads"),
        ({"k": torch.randn(7, 0, 8), "v": torch.randn(7, 0, 8)}, "key-value heads must divide the query heads"),
        ({"scale": 0.0}, "scale must be positive, got 0.0"),
        ({"scale": -1.0}, "scale must be positive, got -1.0"),
        ({"scale": float("nan")}, "scale must be positive, got nan"),
    ],
)
def test_refuses_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _call(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"k": torch.randn(7, 2, 8, device="meta")},
        {"kv_offsets": torch.tensor([0, 5, 7], device="meta")},
        {"num_candidates": torch.tensor([1, 0], device="meta")},
        {"key_valid": torch.ones(7, dtype=torch.bool, device="meta")},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_all_tensors_must_be_on_one_device(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="all tensors must be on the device of q, cpu"):
        _call(**changes)


@pytest.mark.parametrize("backend", ["auto", "bucketed", "reference"])
def test_a_broken_promise_of_few_rows(backend: Backend) -> None:
    """Where lengths are read on the host anyway it is an error; the fused kernel answers with NaN (test_forward.py)."""
    with pytest.raises(ValueError, match="max_q_len=2 was promised, but a request has 3 query rows"):
        _call(max_q_len=2, backend=backend)
    assert _call(max_q_len=3, backend=backend).shape == (4, 2, 8)


def _inputs(head: int, dtype: torch.dtype) -> dict[str, Any]:
    rows = {"q": 4, "k": 7, "v": 7}
    return {name: torch.randn(count, 2, head).to(dtype) for name, count in rows.items()}


@pytest.mark.parametrize(
    ("head", "dtype", "message"),
    [
        (8, torch.float64, "takes fp32, fp16 or bf16 and head sizes up to 256, got torch.float64 and 8"),
        (257, torch.float32, "head sizes up to 256, got torch.float32 and 257"),
        pytest.param(8, torch.bfloat16, "Triton's interpreter multiplies bf16 wrongly", marks=without_gpu),
    ],
)
def test_the_fused_kernel_refuses_what_it_cannot_do(head: int, dtype: torch.dtype, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _call(**_inputs(head, dtype), backend="triton")
    assert _call(**_inputs(head, dtype)).dtype == dtype, "auto finds another way"


def test_the_fused_kernel_needs_a_gpu_or_the_interpreter() -> None:
    compiled = mock.patch.object(backend_module, "is_interpreted", lambda: False)
    with compiled, pytest.raises(RuntimeError, match="needs CUDA tensors, got cpu"):
        _call(backend="triton")


def test_the_fused_kernel_needs_triton() -> None:
    missing = mock.patch.object(backend_module, "HAS_TRITON", False)
    with missing, pytest.raises(RuntimeError, match="backend='triton' needs Triton; it is not installed"):
        _call(backend="triton")


@pytest.mark.parametrize(
    ("device", "head", "dtype", "reason"),
    [
        ("cpu", 8, torch.float32, ""),
        (
            "cuda",
            8,
            torch.float64,
            "the fused kernel takes fp32, fp16 or bf16 and head sizes up to 256, got torch.float64 and 8",
        ),
        ("cuda", 257, torch.float16, "the fused kernel takes fp32, .* up to 256, got torch.float16 and 257"),
        ("cuda", LARGEST_HEAD, torch.bfloat16, ""),
    ],
)
def test_why_the_fused_kernel_cannot_run(device: str, head: int, dtype: torch.dtype, reason: str) -> None:
    q = mock.Mock(device=torch.device(device), dtype=dtype, shape=torch.Size((4, 2, head)))
    assert re.fullmatch(reason, why_not_triton(q))


def test_key_valid_must_be_bool() -> None:
    with pytest.raises(ValueError, match=r"key_valid must be bool, got torch.int64"):
        _call(key_valid=torch.ones(7, dtype=torch.int64))


def test_auto_takes_the_kernel_of_a_cpu_where_it_can_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    _log_once.cache_clear()
    caplog.set_level(logging.INFO, "dist_rec.kernels")
    logging.getLogger("dist_rec").propagate = True
    inputs = {name: torch.randn(rows, 2, 8) for name, rows in (("q", 4), ("k", 7), ("v", 7))}
    assert torch.equal(_call(**inputs), _call(**inputs, backend="native"))
    wide = {name: x.double() for name, x in inputs.items()}
    assert torch.equal(_call(**wide), _call(**wide, backend="bucketed"))
    _call(**inputs)
    assert [record.getMessage() for record in caplog.records] == [
        "cross_causal_attention: native (inputs on cpu)",
        "cross_causal_attention: bucketed (inputs on cpu; the C++ kernel takes torch.float32 on cpu, got torch.float64 "
        "on cpu)",
    ]


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_offsets": torch.tensor([3, 1, 1])}, r"q_offsets must begin at 0.*are these lengths\?"),
        ({"q_offsets": torch.nn.Parameter(torch.tensor([3, 1, 1]), requires_grad=False)}, r"are these lengths\?"),
        ({"kv_offsets": torch.tensor([0, 7, 5])}, r"kv_offsets must begin at 0 and never fall"),
        ({"kv_offsets": torch.tensor([0, 5, 8])}, r"up to at most 7"),
        ({"num_candidates": torch.tensor([6, 0])}, r"request 0 has 6 candidates of 1 rows, but only 5 key rows"),
        ({"num_candidates": torch.tensor([1, -1])}, r"request 1 has -1 candidates"),
        (
            {"num_candidates": torch.tensor([2, 1]), "prefix_len": torch.tensor([1, 1])},
            r"prefix_len must be .* = \(3,\), got \(2,\)",
        ),
    ],
)
def test_values_in_host_memory_are_checked(changes: dict[str, Any], message: str, compiled: bool) -> None:
    call = torch.compile(_call, backend="eager") if compiled else _call
    with pytest.raises(ValueError, match=message):
        call(**changes)


def test_offsets_that_are_no_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be tensors \(B \+ 1,\), got list, Tensor"):
        _call(q_offsets=[0, 3, 4])
