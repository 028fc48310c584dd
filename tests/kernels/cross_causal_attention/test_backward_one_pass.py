"""The backward that holds all rows and reads K and V once, against the truth: whole requests and pieces of them."""

from contextlib import nullcontext
from dataclasses import replace
from typing import Any
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.cross_causal_attention import op, tuning
from tests.kernels.cross_causal_attention.cases import (
    BLOCK,
    DEVICE,
    MODES,
    Case,
    Mode,
    Request,
    assert_true,
    keys_in_pieces,
    launches,
    make_case,
    poisoned_memory,
    tiled_cases,
)

JAGGED = [
    Request(70, 3, 12),
    Request(0, 1, 2),
    Request(81, 1, 33),
    Request(3, 2, 17),
    Request(64, 0, 0),
    Request(1, 1, 1),
]

# Triton's interpreter computes with numpy, which warns where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|All-NaN slice):RuntimeWarning")


def _run(case: Case, *, pieces: bool = False) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and gradients in memory that was full of NaN, by this backward and no other; in the interpreter with a
    tile for any request, since the table's smaller ones in fp32 and for wide heads are there for registers that only a
    GPU has."""
    tiles = mock.patch.object(tuning, "tiles_for", _with_a_large_tile) if DEVICE.type == "cpu" else nullcontext()
    with keys_in_pieces() if pieces else nullcontext(), poisoned_memory(), tiles, launches() as found:
        results = case.run_with_gradients("triton", max_q_len=case.most_rows)
    backward = [kernel for kernel in found if kernel not in (op.forward, op.combine)]
    if DEVICE.type == "cpu":
        before = [op.row_statistics] if case.q.dtype == torch.float32 else []
        assert backward == [*before, op.backward_one_pass, *([op.sum_parts] if pieces else [])]
    return results


def _with_a_large_tile(*arguments: Any, **options: Any) -> tuning.Tiles:
    return replace(_table(*arguments, **options), one_pass=tuning.Tile(128, 64, 8, 1))


_table = tuning.tiles_for


@settings(max_examples=10, deadline=None)
@given(case=tiled_cases(), pieces=st.booleans())
def test_equals_the_truth(case: Case, pieces: bool) -> None:
    """Every element is written: for keys that nobody sees, requests without rows and requests without keys too."""
    assert_true(case, _run(case, pieces=pieces))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("head_size", [8, 16, 24, 48, 64, 96, 128, 256])
def test_head_sizes(head_size: int, dtype: torch.dtype) -> None:
    requests = [Request(66, 1, 16), Request(3, 0, 4)]
    case = make_case(requests, "groups", group_size=2, heads=1, head_size=head_size).to(torch.float16).to(dtype)
    assert_true(case, _run(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_all_modes_with_grouped_heads(mode: Mode, pieces: bool, dtype: torch.dtype) -> None:
    case = make_case(JAGGED, mode, group_size=2, hide=0.2, heads=(6, 2), head_size=16).to(torch.float16).to(dtype)
    assert_true(case, _run(case, pieces=pieces))


def test_as_many_rows_as_a_tile_holds() -> None:
    case = make_case([Request(70, 0, 128), Request(200, 0, 3)], "plain").to(torch.float32)
    assert_true(case, _run(case))


def test_more_rows_take_two_passes() -> None:
    case = make_case([Request(70, 0, 65)], "plain", heads=(2, 1)).to(torch.float32)
    with launches() as found:
        case.run_with_gradients("triton", max_q_len=65)  # 130 rows, with the heads that share keys
    assert found == [op.forward, op.row_statistics, op.backward_queries, op.backward_keys]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("mode", MODES)
def test_pieces_change_nothing_for_keys_and_for_short_requests(mode: Mode, dtype: torch.dtype) -> None:
    """Bitwise: a key's gradients come from one block, and a request of one piece has nothing to add up."""
    case = make_case(JAGGED, mode, group_size=2).to(dtype)
    with mock.patch.object(op, "_run_forward", _unsplit(op._run_forward)):
        whole, parts = _run(case), _run(case, pieces=True)
    short = (case.kv_offsets.diff() <= BLOCK).repeat_interleave(case.q_offsets.diff())
    assert 0 < short.sum() < len(short)
    assert torch.equal(whole[1][short], parts[1][short])
    assert torch.equal(whole[2], parts[2]) and torch.equal(whole[3], parts[3])


def _unsplit(run_forward: Any) -> Any:
    """The forward before a backward in pieces, itself in one piece: both backwards start from the same numbers."""

    def run(call: Any, *arguments: Any) -> None:
        with mock.patch.object(call, "processors", 0):
            run_forward(call, *arguments)

    return run


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_broken_promise_is_nan_for_that_request_alone(dtype: torch.dtype) -> None:
    """In the gradients, whether the tile would have held the rows or not."""
    case = make_case([Request(70, 0, 1), Request(90, 0, 40), Request(3, 0, 1)], "plain").to(dtype)
    _, *kept = case.run_with_gradients("triton", max_q_len=40)
    for max_q_len in (1, 39):
        _, dq, dk, dv = case.run_with_gradients("triton", max_q_len=max_q_len)
        for got, expected, (first, end) in ((dq, kept[0], (1, 41)), (dk, kept[1], (70, 160))):
            assert got[first:end].isnan().all()
            assert torch.equal(got[:first], expected[:first]) and torch.equal(got[end:], expected[end:])
        assert torch.equal(dv[:70], kept[2][:70]) and torch.equal(dv[160:], kept[2][160:])


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("requests", [[Request(5, 0, 0)], [Request(0, 0, 3)], [Request(70, 0, 0), Request(0, 0, 3)]])
def test_no_rows_or_no_keys_leave_zero_gradients(requests: list[Request], pieces: bool) -> None:
    case = make_case(requests, "plain").to(torch.float32)
    with keys_in_pieces() if pieces else nullcontext(), poisoned_memory():
        results = case.run_with_gradients("triton", max_q_len=case.most_rows)
    assert [x.shape for x in results] == [case.q.shape, *(x.shape for x in case.inputs)]
    assert not any(x.any() for x in results)


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_hidden_keys_may_hold_anything(garbage: float, pieces: bool) -> None:
    case = make_case([Request(130, 2, 9), Request(70, 1, 4)], "groups", group_size=2, hide=0.4).to(torch.float32)
    hidden = ~case.options["key_valid"][:, None, None]
    dirty = replace(case, k=case.k.masked_fill(hidden, garbage), v=case.v.masked_fill(hidden, garbage))
    for got, expected in zip(_run(dirty, pieces=pieces), _run(case, pieces=pieces)):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_keys_of_a_request_without_rows_may_hold_anything(garbage: float, pieces: bool) -> None:
    """As in the reference: what nobody sees has a zero gradient, whatever it holds."""
    case = make_case([Request(130, 0, 0), Request(70, 0, 4)], "plain").to(torch.float32)
    dirty = replace(case, k=case.k.clone(), v=case.v.clone())
    dirty.k[:130], dirty.v[:130] = garbage, garbage
    for got, expected in zip(_run(dirty, pieces=pieces), _run(case, pieces=pieces)):
        assert torch.equal(got, expected)
