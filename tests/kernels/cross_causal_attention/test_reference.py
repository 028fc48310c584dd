"""The truth against something plainer: one row, one head, one key at a time."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings

from dist_rec.kernels.cross_causal_attention import Backend, cross_causal_attention
from dist_rec.kernels.cross_causal_attention.reference import visible_keys
from tests.kernels.cross_causal_attention.cases import Case, Request, cases, make_case, plain_attention


@settings(max_examples=80, deadline=None)
@given(case=cases())
def test_equals_a_loop_over_rows(case: Case) -> None:
    torch.testing.assert_close(case.run("reference"), plain_attention(case), rtol=0.0, atol=1e-12)


def test_mask_of_two_candidates_is_the_one_in_the_docstring() -> None:
    """3 events, 2 candidates of m = 2 rows, the first of which sees 1 event; rows ask from every position."""
    visible = visible_keys(torch.arange(7), 7, 3, 2, torch.tensor([1, 3]))
    expected = [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 0, 0, 1, 0, 0, 0],
        [1, 0, 0, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],
        [1, 1, 1, 0, 0, 1, 1],
    ]
    assert visible.int().tolist() == expected


def test_is_longers_mask_reversed() -> None:
    """`j >= i` over [m globals; events newest first], LONGER section 3.5.2, read backwards."""
    m, events = 2, 5
    total = m + events
    newest_first = torch.tensor([[j >= i for j in range(total)] for i in range(total)])
    assert torch.equal(visible_keys(torch.arange(total), total, events, m, None), newest_first.flip(0, 1))


@pytest.mark.parametrize("backend", ["reference", "bucketed"])
def test_gradcheck(backend: Backend) -> None:
    case = make_case([Request(3, 2, 4), Request(0, 0, 0), Request(1, 1, 3)], "prefix", group_size=2, hide=0.2)
    leaves = [tensor.clone().requires_grad_() for tensor in case.inputs]

    def run(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        return replace(case, q=q, k=k, v=v).run(backend)

    assert torch.autograd.gradcheck(run, leaves)


@pytest.mark.parametrize("backend", ["reference", "bucketed"])
def test_rows_without_a_visible_key_give_zeros(backend: Backend) -> None:
    """Two rows more than keys in the first request, everything hidden in the second."""
    case = make_case([Request(3, 0, 5), Request(4, 0, 2), Request(2, 0, 1)], "plain")
    valid = torch.tensor([True] * 3 + [False] * 4 + [True] * 2)
    case = replace(case, options=case.options | {"key_valid": valid})
    out, dq, dk, dv = case.run_with_gradients(backend)
    blind = torch.tensor([True, True, False, False, False, True, True, False])
    assert not out[blind].any() and not dq[blind].any()
    assert not dk[~valid].any() and not dv[~valid].any()
    assert out[~blind].any(-1).all() and dv[valid].any()


@pytest.mark.parametrize("backend", ["reference", "bucketed"])
def test_hidden_keys_may_hold_anything(backend: Backend) -> None:
    case = make_case([Request(6, 2, 5), Request(3, 1, 4), Request(4, 0, 2)], "groups", group_size=2, hide=0.4)
    hidden = ~case.options["key_valid"]
    assert 0 < hidden.sum() < len(hidden)
    clean = case.run_with_gradients(backend)
    for garbage in (float("nan"), float("inf")):
        k, v = (tensor.masked_fill(hidden[:, None, None], garbage) for tensor in (case.k, case.v))
        for got, expected in zip(replace(case, k=k, v=v).run_with_gradients(backend), clean):
            assert torch.equal(got, expected)


def test_low_precision_is_computed_in_fp32_and_rounded_once() -> None:
    case = make_case([Request(20, 1, 8)], "groups").to(torch.bfloat16)
    assert torch.equal(case.run("reference"), case.to(torch.float32).run("reference").bfloat16())


@pytest.mark.parametrize("backend", ["reference", "bucketed"])
def test_scale_defaults_to_one_over_the_root_of_the_head_size(backend: Backend) -> None:
    case = make_case([Request(5, 0, 3)], "plain", head_size=16)
    out = case.run(backend)
    assert torch.equal(out, replace(case, options=case.options | {"scale": 0.25}).run(backend))
    assert not torch.allclose(out, replace(case, options=case.options | {"scale": 0.5}).run(backend))


@pytest.mark.parametrize("backend", ["reference", "bucketed"])
def test_offsets_of_either_width(backend: Backend) -> None:
    case = make_case([Request(5, 2, 4), Request(2, 1, 2)], "prefix")
    wide = {name: value.long() if isinstance(value, torch.Tensor) else value for name, value in case.options.items()}
    out = cross_causal_attention(*case.inputs, case.q_offsets.long(), case.kv_offsets.long(), backend=backend, **wide)
    assert torch.equal(out, case.run(backend))


@pytest.mark.parametrize("heads", [(4, 2), (6, 2), (3, 1)])
def test_grouped_heads_equal_repeated_ones(heads: tuple[int, int]) -> None:
    """Query head h uses key-value head h // (H / H_kv); the gradient of a shared head is the sum over its query
    heads."""
    case = make_case([Request(9, 2, 6), Request(4, 1, 3)], "groups", group_size=2, heads=heads)
    group = heads[0] // heads[1]
    repeated = replace(case, k=case.k.repeat_interleave(group, dim=1), v=case.v.repeat_interleave(group, dim=1))
    out, dq, dk, dv = repeated.run_with_gradients("reference")
    summed = (out, dq, *(x.unflatten(1, (-1, group)).sum(2) for x in (dk, dv)))
    for got, expected in zip(case.run_with_gradients("reference"), summed):
        torch.testing.assert_close(got, expected, rtol=0.0, atol=1e-12)


def test_rows_of_no_request_are_zeros() -> None:
    """Padding behind the last offset, of some requests or of none."""
    q, k, v = (torch.randn(n, 2, 8, requires_grad=True) for n in (7, 12, 12))
    for q_offsets, kv_offsets in (([0, 2, 5], [0, 4, 9]), ([0], [0])):
        found = [
            cross_causal_attention(q, k, v, torch.tensor(q_offsets), torch.tensor(kv_offsets), backend=backend)
            for backend in ("reference", "bucketed")
        ]
        assert all(out.shape == q.shape and out.requires_grad and not out[q_offsets[-1] :].any() for out in found)
        torch.testing.assert_close(*found)
