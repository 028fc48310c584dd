"""The operators as PyTorch meets them: registration, compilation, autocast, strides, every form of an index, no host
reads."""

import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from dist_rec.kernels.gather_pool import op
from dist_rec.kernels.unique_ids import pack_index, segments_of
from tests.kernels.gather_pool.cases import (
    ADDING,
    DEVICE,
    OPERATIONS,
    Case,
    assert_same,
    forms,
    make_case,
    output_weights,
)

BATCH = [9, 0, 70, 5]


def _case() -> Case:
    return make_case(BATCH, 11, 8, used=9).to(torch.float32).to(DEVICE)


@pytest.mark.parametrize("known", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize("lengths", [BATCH, *(pytest.param(of, marks=pytest.mark.slow) for of in ([0], []))], ids=str)
def test_opcheck(lengths: list[int], known: bool) -> None:
    """Schema, fake tensors and autograd registration are what torch expects of a custom op."""
    case = make_case(lengths, 6, 4).to(torch.float32).to(DEVICE)
    packed = pack_index(case.inverse, 6)
    segments = segments_of(case.inverse, 6) if known else None
    place = (packed.words, packed.bits, packed.length)
    found = (None, None) if segments is None else (segments.order, segments.offsets)
    listed = [x for x in found if x is not None]
    rows, *tables = (x.requires_grad_() for x in (case.rows, *case.tables))
    for gelu in (False, True):
        torch.library.opcheck(op.gather_rows, (rows, *place, listed, tables, list(case.indices), gelu))
        torch.library.opcheck(op.gather_rows, (rows, *place, listed, [], [], gelu))
    grad = torch.randn(packed.length, 4, device=DEVICE)
    still = (rows.detach(), *place[:2], [table.detach() for table in tables], list(case.indices))
    torch.library.opcheck(op.gather_gelu_backward, (grad, *still))
    torch.library.opcheck(op.index_segments, (*place, 6))
    order_and_begins = op.index_segments(*place, 6)
    torch.library.opcheck(op.sum_segments, (grad, *order_and_begins, torch.float16))
    for mode in ("sum", "mean", "max"):
        torch.library.opcheck(op.pool_rows, (rows, *place, case.offsets, mode, *found))
        out, winner = op.pool_rows(rows.detach(), *place, case.offsets, mode, *found)
        torch.library.opcheck(op.pool_backward, (out, winner, case.offsets, mode, *order_and_begins))


@pytest.mark.parametrize("operation", OPERATIONS)
def test_compiled_equals_eager(operation: str) -> None:
    """In one graph, forward and backward, with a packed index."""
    torch.compiler.reset()
    case = replace(_case(), inverse=pack_index(_case().inverse, 11))
    results = []
    for function in (Case.run, torch.compile(Case.run, fullgraph=True, backend="aot_eager")):
        leaves = [x.detach().requires_grad_() for x in (case.rows, *case.tables)]
        out = function(replace(case, rows=leaves[0], tables=tuple(leaves[1:])), operation, "triton")
        results.append((out, *torch.autograd.grad(out.square().sum(), leaves[: 3 if operation in ADDING else 1])))
    assert_same(*results)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_every_form_of_the_index(operation: str) -> None:
    expected = _case().run_with_gradients(operation, "triton")
    for form in forms(_case()):
        assert_same(form.run_with_gradients(operation, "triton"), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_any_strides(operation: str) -> None:
    """Rows apart, elements of a row apart, every second index."""
    case = _case()
    expected = case.run_with_gradients(operation, "triton")
    spread = replace(
        case,
        rows=torch.stack([case.rows, -case.rows], 1)[:, 0],
        inverse=torch.stack([case.inverse, -case.inverse], 1)[:, 0],
        offsets=torch.stack([case.offsets, -case.offsets], 1)[:, 0],
        tables=tuple(torch.stack([x, -x], 1)[:, 0] for x in case.tables),
        indices=tuple(torch.stack([x, -x], 1)[:, 0] for x in case.indices),
    )
    assert not spread.rows.is_contiguous() and not spread.inverse.is_contiguous()
    columns = replace(case, rows=case.rows.T.contiguous().T, tables=tuple(x.T.contiguous().T for x in case.tables))
    for other in (spread, columns):
        assert_same(other.run_with_gradients(operation, "triton"), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_an_expanded_gradient(operation: str) -> None:
    """`out.sum()` sends in one number with strides of zero."""
    rows = _case().rows.requires_grad_()
    out = replace(_case(), rows=rows).run(operation, "triton")
    expected = torch.autograd.grad(out, rows, torch.ones_like(out), retain_graph=True)
    assert_same(torch.autograd.grad(out.sum(), rows), expected)


@pytest.mark.parametrize("operation", OPERATIONS)
def test_without_rows(operation: str) -> None:
    case = make_case([0, 0], 0, 4).to(torch.float32).to(DEVICE)
    out, *gradients = case.run_with_gradients(operation, "triton")
    assert not out.any() and [len(x) for x in gradients] == [0, 9, 2][: len(gradients)]
    assert not any(x.any() for x in gradients)


def test_autocast_changes_nothing() -> None:
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert all(_case().run(operation, "triton").dtype == torch.float32 for operation in OPERATIONS)


def test_tables_of_another_dtype() -> None:
    """fp32 parameters beside fp16 rows: each gradient is summed in fp32 and has the dtype of its table."""
    mixed = replace(_case(), rows=_case().rows.half())
    got, expected = (mixed.run_with_gradients("expand_add", backend) for backend in ("triton", "reference"))
    assert [x.dtype for x in got] == [torch.float16] * 2 + [torch.float32] * 2
    assert torch.equal(got[0], expected[0])
    for mine, other in zip(got[2:], expected[2:]):
        torch.testing.assert_close(mine, other, rtol=0.0, atol=1e-5)


@pytest.mark.parametrize("needed", [(True, False, False), (False, True, False), (False, False, True)])
def test_gradients_only_for_what_asks(needed: tuple[bool, bool, bool]) -> None:
    case = _case()
    _, *expected = case.run_with_gradients("expand_add", "triton")
    leaves = [x.detach().requires_grad_(wanted) for x, wanted in zip((case.rows, *case.tables), needed)]
    out = replace(case, rows=leaves[0], tables=tuple(leaves[1:])).run("expand_add", "triton")
    with mock.patch.object(op, "_reduce", side_effect=op._reduce) as reduced:
        out.backward(output_weights(out))
    assert reduced.call_count == 1
    for leaf, wanted, truth in zip(leaves, needed, expected):
        assert torch.equal(leaf.grad, truth) if wanted else leaf.grad is None


@pytest.mark.parametrize("known", [False, True])
def test_nothing_waits_for_the_device(known: bool) -> None:
    """Tensors on the meta device have no values, and whatever reads one raises: so all but the kernels runs on them."""
    case = make_case(BATCH, 11, 8).to(torch.float32)
    packed = pack_index(case.inverse, 11).to("meta")
    case = case.to("meta")
    segments = segments_of(case.inverse, 11) if known else None
    found = (None, None) if segments is None else (segments.order, segments.offsets)
    listed = [x for x in found if x is not None]
    place = (packed.words, packed.bits, packed.length)
    with ExitStack() as stack:
        kernels = [
            stack.enter_context(mock.patch.object(op, name, mock.MagicMock()))
            for name in ("gather", "reduce_pieces", "combine_parts")
        ]
        # The code itself, not the fakes that meta would take.
        out = op.gather_rows._init_fn(case.rows, *place, listed, list(case.tables), list(case.indices), True)
        terms = (list(case.tables), list(case.indices))
        assert op.gather_gelu_backward._init_fn(out, case.rows, *place[:2], *terms).shape == out.shape
        order_and_begins = found if known else op.index_segments._init_fn(*place, 11)
        grad = op.sum_segments._init_fn(out, *order_and_begins, torch.float32)
        assert (out.shape, grad.shape) == ((packed.length, 8), (11, 8))
        for mode in ("sum", "mean", "max"):
            pooled, winner = op.pool_rows._init_fn(case.rows, *place, case.offsets, mode, *found)
            grad = op.pool_backward._init_fn(pooled, winner, case.offsets, mode, *order_and_begins)
            assert (pooled.shape, grad.shape) == ((4, 8), (11, 8))
    assert op.triton_pool(case.rows, packed, case.offsets, "last", segments).shape == (4, 8)
    assert [kernel.__getitem__.call_count for kernel in kernels] == [2, 7, 3]


def test_no_buffer_of_all_positions() -> None:
    """A pool of 4,000 positions of width 64, forward and backward: no float tensor of that size is made."""
    made: list[tuple[int, ...]] = []
    real = torch.empty

    def empty(*arguments: Any, **options: Any) -> Tensor:
        tensor = real(*arguments, **options)
        made.extend([tuple(tensor.shape)] if tensor.is_floating_point() else [])
        return tensor

    case = make_case([1000] * 4, 50, 64).to(torch.float32).to(DEVICE)
    with mock.patch.object(torch, "empty", empty):
        case.run_with_gradients("mean", "triton")
    assert made and all(rows < 150 for rows, _ in made)


@pytest.mark.parametrize("missing", [False, True])
def test_without_a_gpu_triton_is_refused_and_auto_takes_what_a_cpu_has(missing: bool) -> None:
    """In a process of its own: without the interpreter, or where Triton is not installed at all."""
    script = f"""
import logging, sys, torch
if {missing}:
    sys.modules["triton"] = None
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
from dist_rec.kernels.gather_pool import expand, expand_add, pool
rows, inverse, offsets = torch.eye(3), torch.tensor([2, 0]), torch.tensor([0, 2])
pooled = pool(rows, inverse, offsets, mode="sum")
print(expand(rows, inverse).tolist(), expand_add(rows, inverse, []).tolist(), pooled.tolist())
for call in (expand, lambda *x, **y: expand_add(*x, [], **y), lambda *x, **y: pool(*x, offsets, mode="last", **y)):
    try:
        call(rows, inverse, backend="triton")
    except RuntimeError as error:
        print(error)
"""
    # Isolated from the environment, so without TRITON_INTERPRET; -c puts the root on the path.
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], env={}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    *said, values = ran.stdout.splitlines()[:4]
    taken = {"pool": "torch", "expand": "native", "expand_add": "native"}
    assert said == [f"{name}: {backend} (inputs on cpu)" for name, backend in taken.items()]
    expanded = "[[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]"
    assert values == f"{expanded} {expanded} [[1.0, 0.0, 1.0]]"
    refused = "it is not installed" if missing else "needs CUDA tensors, got cpu"
    assert [refused in line for line in ran.stdout.splitlines()[4:]] == [True] * 3
