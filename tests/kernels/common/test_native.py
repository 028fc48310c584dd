import sys
from typing import Any

import pytest
import torch
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from dist_rec.kernels.common import native
from dist_rec.kernels.gelu import gelu

FLOATS = torch.zeros(2)


@pytest.mark.parametrize("capability", ["DEFAULT", "AVX2", "AVX512"])
def test_every_variant_is_built_and_computes(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    """A variant needs its instruction set to run."""
    order = ["DEFAULT", "AVX2", "AVX512"]
    if order.index(capability) > order.index(torch.backends.cpu.get_cpu_capability()):
        pytest.skip(f"this CPU has no {capability}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    module = native.built.__wrapped__()
    assert module is not None and module.__name__.endswith(f"_native_{capability.lower()}")
    x = torch.linspace(-4, 4, 100)
    out = torch.empty_like(x)
    index = torch.arange(100, dtype=torch.int32)
    table = x[:, None].contiguous()
    wrong = module.gather_rows(1, 1, 100, 1, 1, table.data_ptr(), 100, index.data_ptr(), 0, out.data_ptr())
    assert wrong == -1
    torch.testing.assert_close(out, torch.nn.functional.gelu(x), rtol=0.0, atol=1e-6)


def test_without_a_compiler_there_is_none_and_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_native_default", "_native_avx2", "_native_avx512"):
        monkeypatch.setitem(sys.modules, f"dist_rec.kernels.native.{name}", None)
    assert native.built.__wrapped__() is None
    monkeypatch.setattr(native, "built", lambda: None)
    assert native.why_not_native(FLOATS) == "the C++ kernels were not built"


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (FLOATS, ""),
        (FLOATS.double(), "the C++ kernel takes torch.float32 on cpu, got torch.float64 on cpu"),
        (FLOATS.to("meta"), "the C++ kernel takes torch.float32 on cpu, got torch.float32 on meta"),
    ],
)
def test_what_stands_in_the_way(tensor: torch.Tensor, why: str) -> None:
    assert native.why_not_native(tensor) == why


def test_a_mode_that_watches_operators_sees_torchs_own() -> None:
    with TorchDispatchMode():
        assert "a compiler, a mode, a trace or a transform" in native.why_not_native(FLOATS)


def test_addresses() -> None:
    assert native.address(None) == 0 and native.address(FLOATS) == FLOATS.data_ptr()
    assert native.index(None) == (0, 0) and native.index(torch.zeros(1, dtype=torch.int32))[1] == 0
    assert native.index(torch.zeros(1, dtype=torch.int64))[1] == 1


def test_wrong_arguments_are_errors_not_crashes() -> None:
    module = native.native_kernels()
    for name in ("attend", "attend_backward", "gather_rows", "gather_rows_backward", "write_range", "check_offsets"):
        with pytest.raises(TypeError):
            getattr(module, name)()
        with pytest.raises(TypeError):
            getattr(module, name)("a")
        with pytest.raises((TypeError, ValueError), match=r"too many|expected 1 to 5 tables, got 0"):
            getattr(module, name)(*[0] * 60)


def test_a_module_of_other_sources_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "INTERFACE", native.INTERFACE + 1)
    assert native.built.__wrapped__() is None
    monkeypatch.undo()
    assert native.built.__wrapped__() is not None


def test_smaller_instruction_sets_do_where_the_best_was_not_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    for name in ("avx512", "avx2"):
        monkeypatch.setitem(sys.modules, f"dist_rec.kernels.native._native_{name}", None)
    module = native.built.__wrapped__()
    assert module is not None and module.__name__.endswith("_native_default")


def test_what_memory_does_not_tell_is_not_taken() -> None:
    assert "negated" in native.why_not_native(torch._neg_view(FLOATS))
    seen: list[str] = []
    torch.jit.trace(lambda x: (seen.append(native.why_not_native(x)), x + 1)[1], FLOATS)
    assert "a trace" in seen[0]
    with forward_ad.dual_level():
        assert "a transform" in native.why_not_native(FLOATS)


def test_who_counts_is_told_of_a_call_and_its_mode_does_not_stop_it() -> None:
    heard: list[tuple[str, int]] = []
    x = torch.randn(40).requires_grad_()

    class Counting(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return func(*args, **(kwargs or {}))

    with Counting(), native.told_of_calls(lambda name, tensors, flops: heard.append((name, len(tensors)))):
        gelu(x).sum().backward()
    assert heard == [("gelu", 2), ("gelu_backward", 3)]
    with Counting():
        gelu(x).sum().backward()
    gelu(x)
    assert len(heard) == 2
