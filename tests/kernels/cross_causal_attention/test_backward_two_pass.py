"""The backward for any number of query rows, against the truth: first dQ, then dK and dV."""

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dist_rec.kernels.cross_causal_attention import op
from tests.kernels.cross_causal_attention.cases import (
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
    Request(81, 1, 66),
    Request(3, 2, 17),
    Request(64, 0, 0),
    Request(1, 1, 1),
]

# Triton's interpreter computes with numpy, which warns where a GPU is silent.
pytestmark = pytest.mark.filterwarnings("ignore:(invalid value|divide by zero|overflow|All-NaN slice):RuntimeWarning")


def _run(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and gradients in memory that was full of NaN, by this backward and no other."""
    with poisoned_memory(), launches() as found:
        results = case.run_with_gradients("triton")
    before = [op.row_statistics] if case.q.dtype == torch.float32 else []
    backward = [kernel for kernel in found if kernel not in (op.forward, op.combine)]
    assert backward == [*before, op.backward_queries, op.backward_keys]
    return results


@settings(max_examples=10, deadline=None)
@given(case=tiled_cases(), pieces=st.booleans())
def test_equals_the_truth(case: Case, pieces: bool) -> None:
    """Every element is written: for keys that nobody sees, requests without rows and requests without keys too.

    This backward never cuts the keys, but may follow a forward that did.
    """
    with keys_in_pieces() if pieces else nullcontext():
        assert_true(case, _run(case))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("head_size", [8, 16, 24, 48, 64, 96, 128, 256])
def test_head_sizes(head_size: int, dtype: torch.dtype) -> None:
    requests = [Request(66, 1, 16), Request(3, 0, 4)]
    case = make_case(requests, "groups", group_size=2, heads=1, head_size=head_size).to(torch.float16).to(dtype)
    assert_true(case, _run(case))


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.float16, marks=pytest.mark.slow)])
@pytest.mark.parametrize("positions", [False, True])
@pytest.mark.parametrize("hide", [0.0, 0.2])
@pytest.mark.parametrize("mode", MODES)
def test_all_modes_over_several_tiles_of_rows(mode: Mode, hide: float, positions: bool, dtype: torch.dtype) -> None:
    """Each combination skips and masks other tiles: 198 rows and heads stand against 4 blocks of keys."""
    case = make_case(JAGGED, mode, group_size=2, hide=hide, positions=positions, heads=(3, 1), head_size=16)
    case = case.to(torch.float16).to(dtype)
    assert_true(case, _run(case))


@pytest.mark.parametrize("mode", ["groups", "prefix"])
def test_many_groups_over_several_blocks(mode: Mode) -> None:
    """Blocks of keys that begin and end within groups; rows of every group and some events ask."""
    case = make_case([Request(37, 10, 60), Request(10, 13, 65)], mode, group_size=5, heads=1).to(torch.float32)
    assert_true(case, _run(case))


@pytest.mark.parametrize("requests", [[Request(5, 0, 0)], [Request(0, 0, 3)], [Request(70, 0, 0), Request(0, 0, 3)]])
def test_no_rows_or_no_keys_leave_zero_gradients(requests: list[Request]) -> None:
    case = make_case(requests, "plain").to(torch.float32)
    with poisoned_memory():
        results = case.run_with_gradients("triton")
    assert [x.shape for x in results] == [case.q.shape, *(x.shape for x in case.inputs)]
    assert not any(x.any() for x in results)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_hidden_keys_may_hold_anything(garbage: float) -> None:
    case = make_case([Request(130, 2, 9), Request(70, 1, 4)], "groups", group_size=2, hide=0.4).to(torch.float32)
    hidden = ~case.options["key_valid"][:, None, None]
    dirty = replace(case, k=case.k.masked_fill(hidden, garbage), v=case.v.masked_fill(hidden, garbage))
    for got, expected in zip(_run(dirty), _run(case)):
        assert torch.equal(got, expected)


@pytest.mark.parametrize("garbage", [float("nan"), float("inf")])
def test_keys_of_a_request_without_rows_may_hold_anything(garbage: float) -> None:
    """As in the reference: what nobody sees has a zero gradient, whatever it holds."""
    case = make_case([Request(130, 0, 0), Request(70, 0, 4)], "plain").to(torch.float32)
    dirty = replace(case, k=case.k.clone(), v=case.v.clone())
    dirty.k[:130], dirty.v[:130] = garbage, garbage
    for got, expected in zip(_run(dirty), _run(case)):
        assert torch.equal(got, expected)
