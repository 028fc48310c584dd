"""Launches that go past Triton's own look at the arguments: which do, and that each gets the kernel it needs."""

from itertools import product
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from dist_rec.kernels.common.launch import cdiv, launch
from tests.kernels.common.test_compile_ahead import found_by

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# Kernels are compiled for sm_90 by a driver that runs nothing. Of every launch that Triton itself looks at the name is
# kept, and of every one that reaches the launcher all that it gets behind the hooks.
PROGRAM = """
import json, torch, triton
import triton.language as tl
from triton import knobs
from triton.runtime.jit import JITFunction
looked, given = [], []
run = JITFunction.run
def looking(self, *a, **k):
    looked.append(self.arg_names[0])
    return run(self, *a, **k)
JITFunction.run = looking  # before `launch` is there, which knows Triton's by it
from benchmarks.aot import recording_driver
recording_driver.install()
def called(self, *a):
    given.append([type(x).__name__ if isinstance(x, torch.Tensor) else x for x in a[9:]])
recording_driver._Launcher.__call__ = called
from dist_rec.kernels.common.compile_ahead import compiling_ahead
from dist_rec.kernels.common.launch import launch

@triton.jit(do_not_specialize=["free"])
def scale(X, OUT, n, free, TIMES: tl.constexpr, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    there = at < n + free
    tl.store(OUT + at, tl.load(X + at, mask=there) * TIMES, mask=there)

def go(dtype=torch.float32, shift=0, n=32, free=5, times=2, warps=4):
    x = torch.zeros(80, dtype=dtype)[shift:]
    launch(scale, (1,), X=x, OUT=torch.zeros(80), n=n, free=free, TIMES=times, BLOCK=32, num_warps=warps)

def kinds(*calls):
    found = []
    for call in calls:
        before = len(looked)
        go(**call)
        found.append(len(looked) - before)
    return found

new = kinds({}, {"dtype": torch.float16}, {"shift": 1}, {"n": 33}, {"n": 1}, {"n": 2**40}, {"times": 3}, {"warps": 8})
again = kinds({}, {"dtype": torch.float16}, {"shift": 1}, {"n": 33}, {"n": 1}, {"n": 2**40}, {"times": 3}, {"warps": 8})
alike = kinds({"n": 64}, {"n": 35}, {"free": 6}, {"shift": 4})
given.clear()
go(n=48, free=7)
arguments = given[-1]
knobs.runtime.launch_enter_hook.add(print)
hooked = kinds({})
knobs.runtime.launch_enter_hook.remove(print)
scale.pre_run_hooks.append(lambda *a, **k: None)
hooked += kinds({})
scale.pre_run_hooks.clear()
given.clear()
with compiling_ahead(1, lambda *_: None):
    go()
print(json.dumps({"new": new, "again": again, "alike": alike, "arguments": arguments, "hooked": hooked,
                  "ran_ahead": len(given)}))
"""


@triton.jit
def _double(X, OUT, n, BLOCK: tl.constexpr) -> None:
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(OUT + at, 2 * tl.load(X + at, mask=at < n), mask=at < n)


def test_a_kernel_for_every_kind_of_arguments(tmp_path: Path) -> None:
    """Types, alignment, the number 1, multiples of 16, numbers beyond 32 bits, constants and options."""
    found = found_by(PROGRAM, tmp_path)
    assert found["new"] == [1] * 8 and found["again"] == [0] * 8
    assert found["alike"] == [0] * 4, "other numbers of the same kind, and a place that is aligned alike"
    assert found["arguments"] == ["Tensor", "Tensor", 48, 7, 2, 32], "in the kernel's own order"
    assert found["hooked"] == [1, 1], "whoever looks sees every launch"
    assert found["ran_ahead"] == 0, "a mode that only compiles is obeyed"


@pytest.mark.parametrize("length", [1, 16, 17, 100])
def test_results(length: int) -> None:
    for _, shift in product(range(3), (0, 1)):
        x = torch.randn(200, device=DEVICE)[shift : shift + length]
        out = torch.full((length + 1,), torch.nan, device=DEVICE)
        launch(_double, (cdiv(length, 16),), X=x, OUT=out, n=length, BLOCK=16)
        assert torch.equal(out[:length], 2 * x) and out[length].isnan()


def test_rounded_up() -> None:
    assert [cdiv(n, 4) for n in (0, 1, 4, 5)] == [0, 1, 1, 2]
