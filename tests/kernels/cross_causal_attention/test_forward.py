"""The fused forward against the truth: output, largest scores and their sums, in every mode, whole and in pieces."""

from contextlib import nullcontext
from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import pad

from dist_rec.kernels.cross_causal_attention import op, tuning
from dist_rec.kernels.cross_causal_attention.tile_table import Tile
from tests.helpers.closeness import assert_close_to_truth, farthest
from tests.kernels.cross_causal_attention.cases import (
    BLOCK,
    DEVICE,
    MODES,
    Case,
    Mode,
    Request,
    keys_in_pieces,
    launches,
    make_case,
    plain_autograd,
    plain_in_orders,
    poisoned_memory,
    tiled_cases,
    truth_of,
)

JAGGED = [
    Request(70, 3, 12),
    Request(0, 1, 2),
    Request(81, 1, 66),
    Request(3, 2, 17),
    Request(64, 0, 0),
    Request(1, 1, 1),
]

# Triton's interpreter computes with numpy, which warns where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|All-NaN slice):RuntimeWarning")


def _attend(case: Case, max_q_len: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Output, peak and total of the op itself, in memory that was full of NaN."""
    with poisoned_memory():
        out, peak, total = op.attend(*case.on(DEVICE).operands(max_q_len))
    return out.cpu(), peak.cpu(), total.cpu()


def _assert_true(case: Case, got: tuple[Tensor, Tensor, Tensor]) -> None:
    out, peak, total = got
    plain, exact = plain_in_orders(case), plain_autograd(case.to(torch.float64))
    truth = truth_of(case)[0]
    assert_close_to_truth(out, truth, farthest([p.out for p in plain], truth))
    blind = exact.total == 0
    assert torch.equal(total == 0, blind) and not out[blind].any()
    assert (peak[blind] < -1e29).all() and peak.isfinite().all()
    peak = peak.masked_fill(blind, float("-inf"))
    for mine, name in ((peak, "peak"), (total, "total"), (peak + total.log2(), "log_sum")):
        truth = getattr(exact, name)
        assert_close_to_truth(mine, truth, farthest([getattr(p, name) for p in plain], truth))


@settings(max_examples=25, deadline=None)
@given(case=tiled_cases(), promised=st.booleans(), pieces=st.booleans())
def test_equals_the_truth(case: Case, promised: bool, pieces: bool) -> None:
    """With the log-sum-exp, which is minus infinity for rows that see nothing; their output is zero."""
    with keys_in_pieces() if pieces else nullcontext():
        _assert_true(case, _attend(case, case.most_rows if promised else None))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("head_size", [8, 16, 24, 48, 64, 96, 128, 256])
def test_head_sizes(head_size: int, dtype: torch.dtype) -> None:
    requests = [Request(66, 1, 16), Request(3, 0, 4)]
    case = make_case(requests, "groups", group_size=2, heads=1, head_size=head_size).to(torch.float16).to(dtype)
    _assert_true(case, _attend(case))


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (6, 2), (5, 1)])
def test_grouped_heads_over_several_tiles_of_rows(heads: tuple[int, int]) -> None:
    """Up to 5 heads share a tile, so that one query row's heads can fall into two tiles."""
    case = make_case([Request(70, 2, 67), Request(5, 1, 3)], "prefix", group_size=3, heads=heads, head_size=8).to(
        torch.float32
    )
    _assert_true(case, _attend(case))


@pytest.mark.parametrize("mode", MODES)
def test_all_modes_over_several_tiles(mode: Mode) -> None:
    case = make_case(JAGGED, mode, group_size=2, hide=0.2, heads=1, head_size=16).to(torch.float32)
    _assert_true(case, _attend(case))


@pytest.mark.parametrize("pieces", [False, True])
def test_ten_thousand_keys(pieces: bool) -> None:
    case = make_case([Request(9_990, 5, 14)], "groups", group_size=2, heads=1, head_size=8).to(torch.float16)
    with keys_in_pieces(1024) if pieces else nullcontext():
        _assert_true(case, _attend(case, 14))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("dtype", [pytest.param(torch.float32, marks=pytest.mark.slow), torch.float16])
def test_keys_in_pieces_change_nothing_for_short_requests(mode: Mode, dtype: torch.dtype) -> None:
    """Bitwise; longer requests are joined from their pieces and stay close."""
    case = make_case(JAGGED, mode, group_size=2, heads=(4, 2), head_size=8).to(dtype)
    whole = _attend(case, case.most_rows)
    with keys_in_pieces(), launches() as found:
        parts = _attend(case, case.most_rows)
    assert found == [op.forward, op.combine]
    short = (case.kv_offsets.diff() <= BLOCK).repeat_interleave(case.q_offsets.diff())
    assert 0 < short.sum() < len(short)
    for got, expected in zip(parts, whole):
        assert torch.equal(got[short], expected[short])
    _assert_true(case, parts)


def test_a_batch_that_fills_the_device_is_not_cut() -> None:
    case = make_case(JAGGED, "plain").to(torch.float32)
    with launches() as found:
        _attend(case)
    assert found == [op.forward]


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize(
    "requests", [[], [Request(0, 0, 0)], [Request(5, 0, 0)], [Request(0, 0, 3)], [Request(0, 0, 3)] * 2]
)
def test_nothing_to_do(requests: list[Request], pieces: bool) -> None:
    case = make_case(requests, "plain").to(torch.float32)
    with keys_in_pieces(0) if pieces else nullcontext():
        out, _, total = _attend(case)
    assert out.shape == case.q.shape and not out.any() and not total.any()


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("mode", MODES)
def test_tensors_may_go_on_behind_the_last_offset(mode: Mode, pieces: bool) -> None:
    """Rows that belong to no request hold NaN and touch nothing."""
    case = make_case([Request(70, 2, 9), Request(65, 1, 4)], mode, group_size=2, hide=0.2, positions=True).to(
        torch.float32
    )
    q, k, v = (pad(x, (0, 0, 0, 0, 0, 37), value=float("nan")) for x in case.inputs)
    options = dict(case.options)
    for name, filler in (("q_positions", 5), ("key_valid", True)):
        if name in options:
            options[name] = pad(options[name], (0, 37), value=filler)
    longer = replace(case, q=q, k=k, v=v, options=options)
    with keys_in_pieces() if pieces else nullcontext():
        for got, expected in zip(_attend(longer), _attend(case)):
            assert torch.equal(got[: len(case.q)], expected)


@pytest.mark.parametrize("pieces", [False, True])
@pytest.mark.parametrize("max_q_len", [1, 15, 16, 39])
def test_a_broken_promise_is_nan_for_that_request_alone(max_q_len: int, pieces: bool) -> None:
    """Whatever was in memory before: every row of the request is written, also those that no tile was meant to hold."""
    case = make_case([Request(70, 0, 1), Request(90, 0, 40), Request(3, 0, 1)], "plain").to(torch.float32)
    with keys_in_pieces() if pieces else nullcontext(), poisoned_memory(0.0):
        kept, broken = (op.attend(*case.on(DEVICE).operands(most))[0].cpu() for most in (40, max_q_len))
    assert broken[1:41].isnan().all()
    assert not kept.isnan().any() and torch.equal(broken[[0, 41]], kept[[0, 41]])


def test_a_hundred_thousand_keys() -> None:
    """Forward and one-pass backward, in blocks so wide that the interpreter is done in seconds."""
    case = make_case([Request(100_000, 0, 3), Request(5, 0, 2)], "plain", heads=1, head_size=16).to(torch.float32)
    wide = Tile(16, 2048, 8, 1)
    with mock.patch.object(tuning, "tiles_for", return_value=tuning.Tiles(wide, wide, wide, wide)):
        got = case.run_with_gradients("triton", max_q_len=3)
    for mine, truth, plain in zip(got, truth_of(case), plain_autograd(case).results):
        assert_close_to_truth(mine, truth, plain)


@pytest.mark.slow
def test_five_hundred_candidates_over_one_history() -> None:
    """The rows of all candidates stack into tiles; each sees the history and its own group only."""
    requests = [Request(70, 500, 516), Request(40, 1, 3), Request(10, 0, 10)]
    case = make_case(requests, "groups", heads=1, head_size=16).to(torch.float32)
    for mine, truth, plain in zip(case.run_with_gradients("triton"), truth_of(case), plain_autograd(case).results):
        assert_close_to_truth(mine, truth, plain)
