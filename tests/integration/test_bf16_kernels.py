"""The kernels in bf16, as a GPU runs them by default; without one in Triton's interpreter, with its arithmetic on bf16
put right."""

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
import torch
import triton
import triton.language as tl
from hypothesis import HealthCheck, given, settings

from dist_rec.kernels import cross_causal_attention
from tests.helpers.exact_bf16 import exact_bf16
from tests.kernels.cross_causal_attention import cases as attention
from tests.kernels.cross_causal_attention import test_backward_one_pass, test_backward_two_pass
from tests.kernels.gather_pool import cases as gathering
from tests.kernels.prefix_sum import cases as prefixes
from tests.kernels.slot_attention import cases as slots

DEVICE = attention.DEVICE
# The patch of the interpreter is the same for every example.
RARELY = settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|All-NaN slice):RuntimeWarning")


@pytest.fixture(autouse=True)
def _exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if DEVICE.type == "cpu":  # attention refuses the interpreter as it is
        monkeypatch.setattr(cross_causal_attention, "why_not_triton", lambda _: "")
    with exact_bf16() if DEVICE.type == "cpu" else nullcontext():
        yield


@triton.jit
def _products(A, B, OUT, SUM, N: tl.constexpr) -> None:
    i = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    a, b = tl.load(A + i), tl.load(B + i)
    tl.store(OUT + i, tl.dot(a, b))
    tl.store(SUM + i, (a * b + a).to(tl.float32).to(tl.bfloat16))


def test_dots_and_sums_are_those_of_torch() -> None:
    """First of all: what the other tests stand on."""
    a, b = (torch.randn(16, 16, device=DEVICE).bfloat16() for _ in range(2))
    out, total = torch.empty(16, 16, device=DEVICE), torch.empty(16, 16, device=DEVICE, dtype=torch.bfloat16)
    _products[(1,)](a, b, out, total, N=16)
    torch.testing.assert_close(out.double(), a.double() @ b.double(), rtol=1e-6, atol=1e-6)
    fused = (a.float() * b.float() + a.float()).bfloat16()
    assert ((total == a * b + a) | (total == fused)).all(), "rounded to nearest; a GPU may fuse the two"


def test_conversions_round_to_nearest_even() -> None:
    x = torch.cat([torch.randn(500) * 10.0 ** torch.randint(-30, 30, (500,)), torch.tensor([float("inf"), 0.0, -0.0])])
    y = torch.empty(512, dtype=torch.bfloat16, device=DEVICE)
    padded = torch.nn.functional.pad(x, (0, 512 - len(x))).to(DEVICE)
    _convert[(1,)](padded, y, N=512)
    assert torch.equal(y, padded.bfloat16())


@triton.jit
def _convert(X, Y, N: tl.constexpr) -> None:
    i = tl.arange(0, N)
    tl.store(Y + i, tl.load(X + i).to(tl.bfloat16))


@RARELY
@given(case=attention.tiled_cases())
def test_attention(case: attention.Case) -> None:
    """Forward, and both backwards."""
    case = case.to(torch.bfloat16)
    attention.assert_true(case, test_backward_one_pass._run(case))
    attention.assert_true(case, test_backward_two_pass._run(case))


@pytest.mark.parametrize(
    "head_size", [16, pytest.param(64, marks=pytest.mark.slow), pytest.param(128, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("mode", attention.MODES)
def test_attention_of_every_mode(mode: attention.Mode, head_size: int) -> None:
    requests = [attention.Request(70, 3, 12), attention.Request(0, 1, 2), attention.Request(81, 1, 33)]
    case = attention.make_case(requests, mode, group_size=2, hide=0.2, heads=(2, 1), head_size=head_size)
    case = case.to(torch.bfloat16)
    attention.assert_true(case, test_backward_one_pass._run(case, pieces=True))
    attention.assert_true(case, test_backward_two_pass._run(case))


@pytest.mark.parametrize("operation", gathering.OPERATIONS)
def test_gathering_and_pooling(operation: str) -> None:
    case = gathering.make_case([40, 90, 0, 3], 30, 20).to(torch.bfloat16).to(DEVICE)
    gathering.assert_truth(case, operation, "triton")


@RARELY
@given(case=prefixes.cases())
def test_prefix_sums(case: prefixes.Case) -> None:
    prefixes.assert_true(case.to(torch.bfloat16), "triton")


@RARELY
@given(case=slots.cases())
def test_slots(case: slots.Case) -> None:
    slots.assert_true(case.to(torch.bfloat16), "triton")
