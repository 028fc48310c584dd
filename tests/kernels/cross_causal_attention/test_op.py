"""The fused operator as PyTorch meets it: its registration, compilation, checkpoints, autocast, strides, and no host
reads."""

import os
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from dist_rec.kernels.cross_causal_attention import Backend, cross_causal_attention, op, work_list
from tests.kernels.cross_causal_attention.cases import (
    DEVICE,
    MODES,
    Case,
    Mode,
    Request,
    keys_in_pieces,
    launches,
    make_case,
    output_weights,
    poisoned_memory,
)

BATCH = [Request(18, 2, 9), Request(0, 1, 2), Request(7, 0, 5), Request(68, 3, 12), Request(5, 0, 0)]

# Triton's interpreter computes with numpy, which warns where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|All-NaN slice):RuntimeWarning")


def _case(mode: Mode, **options: Any) -> Case:
    return make_case(BATCH, mode, **{"group_size": 2, "heads": (2, 1), "head_size": 16} | options).to(torch.float32)


def _leaves(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (x.detach().requires_grad_() for x in case.inputs)
    return q, k, v


def _assert_same(got: Any, expected: Any) -> None:
    """Bitwise."""
    for mine, other in zip(got, expected, strict=True):
        assert torch.equal(mine, other)


@pytest.mark.parametrize(
    ("case", "promised"),
    [
        pytest.param(
            make_case([Request(5, 0, 3), Request(2, 0, 1)], "plain").to(torch.float32), True, marks=pytest.mark.slow
        ),
        (make_case([Request(3, 2, 4)], "prefix", group_size=2, hide=0.2, positions=True).to(torch.float32), False),
        pytest.param(
            make_case([Request(4, 0, 2)], "full", heads=(2, 1)).to(torch.float16), False, marks=pytest.mark.slow
        ),
        (make_case([Request(4, 0, 0)], "full").to(torch.float16), True),
        (make_case([], "plain").to(torch.float32), True),
    ],
    ids=["plain", "prefix", "shared heads", "no rows", "no request"],
)
def test_opcheck(case: Case, promised: bool) -> None:
    """Schema, fake tensors and autograd registration are what torch expects of a custom op."""
    case = case.on(DEVICE)
    most = case.most_rows if promised else None
    q, k, v = _leaves(case)
    torch.library.opcheck(op.attend, (q, k, v, *case.operands(most)[3:]))
    forward = op.attend(*case.operands(most))
    grad = output_weights(case.q.cpu()).to(DEVICE)
    torch.library.opcheck(op.attend_backward, (grad, list(case.inputs), list(forward), *case.operands(most)[3:]))


@pytest.mark.parametrize(("mode", "promised"), [("plain", True), ("prefix", False)])
def test_compiled_equals_eager(mode: Mode, promised: bool) -> None:
    """In one graph, forward and backward."""
    torch.compiler.reset()
    case = _case(mode).on(DEVICE)
    most = case.most_rows if promised else None

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        offsets = (case.q_offsets, case.kv_offsets)
        return 2 * cross_causal_attention(q, k, v, *offsets, backend="triton", max_q_len=most, **case.options)

    results = []
    for function in (run, torch.compile(run, fullgraph=True, backend="aot_eager")):
        leaves = _leaves(case)
        out = function(*leaves)
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves)))
    _assert_same(*results)


def test_activation_checkpoints_change_nothing() -> None:
    case = _case("groups").on(DEVICE)

    def run(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return replace(case, q=q, k=k, v=v).run("triton", max_q_len=12)

    results = []
    for function in (run, lambda *inputs: checkpoint(run, *inputs, use_reentrant=False)):
        leaves = _leaves(case)
        results.append(torch.autograd.grad(function(*leaves).square().sum(), leaves))
    _assert_same(*results)


def test_autocast_casts_the_inputs() -> None:
    case = _case("plain")
    leaves = _leaves(case)
    with torch.autocast(DEVICE.type, torch.float16):
        out = replace(case, q=leaves[0], k=leaves[1], v=leaves[2]).run("triton")
    assert out.dtype == torch.float16 and torch.equal(out, case.to(torch.float16).run("triton"))
    gradients = torch.autograd.grad(out.float().square().sum(), leaves)
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in gradients)


@pytest.mark.parametrize("max_q_len", [None, 20])
def test_slices_of_one_projection(max_q_len: int | None) -> None:
    """q, k, v as views of (N, 3, H, D): nothing is copied, results are the same."""
    case = make_case([Request(20, 0, 20), Request(3, 0, 3)], "plain", head_size=24).to(torch.float32)
    qkv = torch.stack(case.inputs, 1)
    views = replace(case, q=qkv[:, 0], k=qkv[:, 1], v=qkv[:, 2])
    assert not any(x.is_contiguous() for x in views.inputs)
    results = [x.run_with_gradients("triton", max_q_len=max_q_len) for x in (views, case)]
    _assert_same(*results)


@pytest.mark.parametrize("max_q_len", [None, 12])
def test_any_strides(max_q_len: int | None) -> None:
    """Heads before rows, and elements of a head apart."""
    case = _case("groups", heads=2)
    apart = torch.stack([case.q, -case.q], -1)[..., 0]
    k, v = (x.transpose(0, 1).contiguous().transpose(0, 1) for x in (case.k, case.v))
    results = [x.run_with_gradients("triton", max_q_len=max_q_len) for x in (replace(case, q=apart, k=k, v=v), case)]
    _assert_same(*results)


def test_an_expanded_gradient() -> None:
    """`out.sum()` sends in one number with strides of zero."""
    leaves = _leaves(case := _case("plain"))
    results = []
    for weights in (torch.ones(()), torch.ones(case.q.shape)):
        out = replace(case, q=leaves[0], k=leaves[1], v=leaves[2]).run("triton")
        results.append(torch.autograd.grad(out, leaves, weights.expand(out.shape)))
    _assert_same(*results)


@pytest.mark.parametrize("promised", [False, True])
def test_two_runs_agree_bitwise(promised: bool) -> None:
    case = _case("prefix", hide=0.1)
    most = case.most_rows if promised else None
    _assert_same(*(case.run_with_gradients("triton", max_q_len=most) for _ in range(2)))


@pytest.mark.parametrize("pieces", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("max_q_len", [pytest.param(None, marks=pytest.mark.slow), 12])
@pytest.mark.parametrize("mode", MODES)
def test_a_request_does_not_depend_on_its_batch(mode: Mode, max_q_len: int | None, pieces: bool) -> None:
    """Bitwise, output and gradients, although the others bring longer histories and NaN."""
    case = _case(mode, hide=0.1, positions=True)
    b = 3
    (first_q, end_q), (first_key, end_key) = (x[b : b + 2].tolist() for x in (case.q_offsets, case.kv_offsets))
    rows, keys = slice(first_q, end_q), slice(first_key, end_key)
    q, k, v = (torch.full_like(x, float("nan")) for x in case.inputs)
    q[rows], k[keys], v[keys] = case.q[rows], case.k[keys], case.v[keys]
    alone = case.only(b)
    equal_weights = mock.patch(f"{make_case.__module__}.output_weights", torch.ones_like)
    with equal_weights, keys_in_pieces() if pieces else nullcontext():
        batch, noisy, single = (
            x.run_with_gradients("triton", max_q_len=max_q_len) for x in (case, replace(case, q=q, k=k, v=v), alone)
        )
    for one, among, poisoned, place in zip(single, batch, noisy, (rows, rows, keys, keys)):
        assert torch.equal(one, among[place]) and torch.equal(one, poisoned[place])


@pytest.mark.parametrize("promised", [False, True])
@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_only_for_what_asks(needed: tuple[bool, bool, bool], promised: bool) -> None:
    case = _case("groups")
    most = case.most_rows if promised else None
    q, k, v = (x.detach().requires_grad_(wanted) for x, wanted in zip(case.inputs, needed))
    out = replace(case, q=q, k=k, v=v).run("triton", max_q_len=most)
    (out * output_weights(out)).sum().backward()
    for x, wanted, expected in zip((q, k, v), needed, case.run_with_gradients("triton", max_q_len=most)[1:]):
        assert torch.equal(x.grad, expected) if wanted else x.grad is None


def test_nothing_is_launched_backwards_where_nobody_asks() -> None:
    with launches() as found:
        out = _case("plain").run("triton")
    assert found == [op.forward] and not out.requires_grad


@pytest.mark.parametrize("promised", [False, True])
def test_integers_of_either_width(promised: bool) -> None:
    case = _case("prefix", positions=True)
    wide = {
        name: x.long() if isinstance(x, Tensor) and x.dtype == torch.int32 else x for name, x in case.options.items()
    }
    wider = replace(case, q_offsets=case.q_offsets.long(), kv_offsets=case.kv_offsets.long(), options=wide)
    most = case.most_rows if promised else None
    _assert_same(*(x.run_with_gradients("triton", max_q_len=most) for x in (wider, case)))


@pytest.mark.parametrize("processors", [0, 1000])
@pytest.mark.parametrize("max_q_len", [None, 12])
@pytest.mark.parametrize("mode", MODES)
def test_nothing_waits_for_the_device(mode: Mode, max_q_len: int | None, processors: int) -> None:
    """Tensors on the meta device have no values, and whatever reads one raises: so all but the kernels runs on them."""
    case = _case(mode, hide=0.1, positions=True).on("meta")
    attend, backward = (
        op.attend._init_fn,
        op.attend_backward._init_fn,
    )  # the code itself, not the fakes that meta would take
    operands = case.operands(max_q_len)
    with ExitStack() as stack:
        launch = stack.enter_context(mock.patch.object(op._Call, "launch"))
        stack.enter_context(mock.patch.object(work_list, "_list_tiles", mock.MagicMock()))
        stack.enter_context(mock.patch.object(work_list, "_clear_tail", mock.MagicMock()))
        stack.enter_context(mock.patch.object(work_list, "_sound", mock.MagicMock()))
        stack.enter_context(mock.patch.object(op, "attend", attend))
        stack.enter_context(mock.patch.object(op, "_processors", lambda _: processors))
        stack.enter_context(mock.patch.object(op.tuning, "SPLIT_KEYS", 64))
        offsets, options = (case.q_offsets, case.kv_offsets), case.options | {"max_q_len": max_q_len}
        out = cross_causal_attention(*case.inputs, *offsets, backend="triton", **options)
        gradients = backward(out, case.inputs, attend(*operands), *operands[3:])
    assert [x.shape for x in (out, *gradients)] == [case.q.shape, *(x.shape for x in case.inputs)]
    assert launch.call_count > 2
    with pytest.raises(RuntimeError):
        out.sum().item()


@pytest.mark.parametrize("max_q_len", [None, 12])
def test_strided_mask_options(max_q_len: int | None) -> None:
    """Columns of a table and expanded numbers, which the kernels would otherwise read past."""
    requests = [Request(70, 2, 12), Request(30, 2, 6)]
    case = make_case(requests, "prefix", hide=0.3, positions=True, head_size=16).to(torch.float32)
    strided = {
        name: torch.stack([x, torch.zeros_like(x)], 1)[:, 0] for name, x in case.options.items() if torch.is_tensor(x)
    }
    strided["num_candidates"] = case.options["num_candidates"][:1].expand(2)
    assert not any(x.is_contiguous() for x in strided.values())
    offsets = {
        name: torch.stack([getattr(case, name), torch.zeros(3, dtype=torch.int32)], 1)[:, 0]
        for name in ("q_offsets", "kv_offsets")
    }
    moved = replace(case, options=case.options | strided, **offsets)
    for mine, expected in zip(
        moved.run_with_gradients("triton", max_q_len=max_q_len), case.run_with_gradients("triton", max_q_len=max_q_len)
    ):
        assert torch.equal(mine, expected)


@pytest.mark.parametrize("max_q_len", [pytest.param(None, marks=pytest.mark.slow), 12])
def test_rows_behind_the_last_offset_are_zeros(max_q_len: int | None) -> None:
    """Padded buffers hold garbage there; what comes back must not, or it would flow into a projection's gradient."""
    case = make_case([Request(70, 2, 12), Request(30, 1, 5)], "groups", head_size=16).to(torch.float32)
    q, k, v = (pad(x, (0, 0, 0, 0, 0, 7), value=float("nan")) for x in case.inputs)
    with poisoned_memory():
        padded = replace(case, q=q, k=k, v=v).run_with_gradients("triton", max_q_len=max_q_len)
    for mine, expected in zip(padded, case.run_with_gradients("triton", max_q_len=max_q_len)):
        assert not mine[len(expected) :].any()
    assert torch.equal(padded[0][: len(case.q)], case.run("triton", max_q_len=max_q_len))


@pytest.mark.parametrize("broken", ["q lengths", "kv lengths", "kv falls", "q beyond"])
@pytest.mark.parametrize("max_q_len", [None, 12])
def test_offsets_that_are_none_give_nan(broken: str, max_q_len: int | None) -> None:
    """Where nobody may wait for their values: the operator itself, behind the checks of values in host memory."""
    case = make_case([Request(70, 0, 12), Request(30, 0, 5)], "plain", head_size=16).to(torch.float32)
    change = {
        "q lengths": {"q_offsets": [12, 5, 0]},
        "kv lengths": {"kv_offsets": [70, 75, 80]},
        "kv falls": {"kv_offsets": [0, 50, 40]},
        "q beyond": {"q_offsets": [0, 12, 18]},
    }[broken]
    spoilt = replace(case, **{name: torch.tensor(x, dtype=torch.int32, device=DEVICE) for name, x in change.items()})
    operands = spoilt.operands(max_q_len)
    results = op.attend(*operands)
    assert results[0].isnan().all()
    gradients = op.attend_backward(torch.ones_like(results[0]), operands[:3], results, *operands[3:])
    assert all(x.isnan().all() for x in gradients)


def test_rows_of_no_request_are_zeros() -> None:
    offsets = torch.zeros(1, dtype=torch.int32, device=DEVICE)
    leaves = [torch.randn(3, 1, 16, device=DEVICE, requires_grad=True) for _ in range(3)]
    out = cross_causal_attention(*leaves, offsets, offsets, backend="triton")
    assert not out.any() and not any(x.any() for x in torch.autograd.grad(out.sum(), leaves))


@pytest.mark.skipif(
    not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch has no fp32_precision here"
)
@pytest.mark.slow
def test_tf32_follows_torchs_newer_flag() -> None:
    """Once it is set, asking by the older name raises, whatever the dtype. In a process of its own: it cannot be
    unset."""
    script = """
import torch
from dist_rec.kernels.cross_causal_attention import cross_causal_attention, op
print(op._tf32_allowed())
torch.backends.cuda.matmul.fp32_precision = "tf32"
offsets = torch.tensor([0, 5], dtype=torch.int32)
x = torch.ones(5, 1, 16, dtype=torch.float16)
print(op._tf32_allowed(), cross_causal_attention(x, x, x, offsets, offsets, backend="triton").sum().item())
"""
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env=environment, capture_output=True, text=True
    )
    assert ran.stdout.split() == ["False", "True", "80.0"], ran.stderr


def test_keys_are_not_split_without_a_promise() -> None:
    """Each piece would need room for all rows of the batch."""
    case = make_case([Request(200, 0, 40), Request(150, 0, 30)], "plain", head_size=16).to(torch.float32)
    with keys_in_pieces(), mock.patch.object(op, "_processors", return_value=1000):
        for max_q_len, joined in ((None, False), (40, True)):
            with launches() as launched:
                case.run("triton", max_q_len=max_q_len)
            assert (op.combine in launched) == joined


@pytest.mark.parametrize("backend", ["triton", "bucketed", "reference"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("promised", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_keys_and_values_in_one_tensor(mode: Mode, promised: bool, backend: Backend) -> None:
    """The same bits as in two, forward and backward."""
    case = _case(mode, head_size=8, hide=0.1)
    most = case.most_rows if promised else None
    out, dq, dk, dv = case.run_with_gradients(backend, max_q_len=most)
    q, kv = case.q.clone().requires_grad_(), torch.cat([case.k, case.v], dim=1).requires_grad_()
    place = DEVICE if backend == "triton" else torch.device("cpu")
    there = case.on(place)
    with poisoned_memory():
        got = cross_causal_attention(
            q.to(place),
            kv.to(place),
            None,
            there.q_offsets,
            there.kv_offsets,
            backend=backend,
            max_q_len=most,
            **there.options,
        ).cpu()
        gradients = torch.autograd.grad((got * output_weights(got)).sum(), (q, kv))
    _assert_same((got, gradients[0], *gradients[1].chunk(2, dim=1)), (out, dq, dk, dv))


@pytest.mark.slow
def test_opcheck_of_one_tensor() -> None:
    case = make_case([Request(3, 2, 4)], "groups", group_size=2).to(torch.float32).on(DEVICE)
    q, kv = (x.detach().requires_grad_() for x in (case.q, torch.cat([case.k, case.v], dim=1)))
    rest = case.operands()[3:]
    torch.library.opcheck(op.attend, (q, kv, None, *rest))
    results = op.attend(q.detach(), kv.detach(), None, *rest)
    grad = output_weights(case.q.cpu()).to(DEVICE)
    torch.library.opcheck(op.attend_backward, (grad, [q.detach(), kv.detach()], list(results), *rest))


def test_one_tensor_with_heads_of_odd_number_is_refused() -> None:
    case = _case("plain")
    odd = torch.cat([case.k, case.k, case.k], dim=1)
    with pytest.raises(ValueError, match=r"without v, expected k \(sum_kv, 2 H_kv, D\) that holds both"):
        cross_causal_attention(case.q, odd, None, case.q_offsets, case.kv_offsets)


def test_a_second_derivative_is_an_error() -> None:
    """Not a silent zero."""
    case = _case("plain").on(DEVICE)
    q, k, v = _leaves(case)
    out = cross_causal_attention(q, k, v, case.q_offsets, case.kv_offsets, backend="triton")
    (dq,) = torch.autograd.grad(out.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match="autograd"):
        dq.square().sum().backward()
