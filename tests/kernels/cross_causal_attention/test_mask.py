"""One value for the options of the mask: the same result as with keywords, in every way that the operator is called."""

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from dist_rec.kernels.cross_causal_attention import Backend, Mask, cross_causal_attention
from tests.kernels.cross_causal_attention.cases import DEVICE, MODES, Case, Mode, Request, make_case

BATCH = [Request(9, 2, 6), Request(0, 1, 2), Request(4, 0, 3)]


def _case(mode: Mode) -> Case:
    return make_case(BATCH, mode, group_size=2, hide=0.2, positions=True, head_size=16).to(torch.float32)


def _by_mask(case: Case) -> Case:
    return replace(case, options={"mask": Mask(**case.options)})


@pytest.mark.parametrize("backend", ["triton", "bucketed", "reference"])
@pytest.mark.parametrize("mode", MODES)
def test_equals_its_options_by_keyword(mode: Mode, backend: Backend) -> None:
    case = _case(mode).on(DEVICE)
    outputs = [
        cross_causal_attention(*x.inputs, x.q_offsets, x.kv_offsets, backend=backend, **x.options)
        for x in (case, _by_mask(case))
    ]
    assert torch.equal(*outputs)


OPTIONS: dict[str, Any] = {
    "causal": False,
    "num_candidates": torch.tensor([1]),
    "group_size": 2,
    "prefix_len": torch.tensor([1]),
    "q_positions": torch.tensor([1]),
    "key_valid": torch.tensor([True]),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_mask_beside_one_of_its_options_is_refused(name: str) -> None:
    offsets, x = torch.tensor([0, 1]), torch.ones(1, 1, 8)
    with pytest.raises(ValueError, match=r"expected either mask or its options .* by keyword, got both"):
        cross_causal_attention(x, x, x, offsets, offsets, mask=Mask(), **{name: OPTIONS[name]})


def test_default_means_no_option() -> None:
    assert Mask().is_default and list(OPTIONS) == [field.name for field in fields(Mask)]
    assert not any(Mask(**{name: value}).is_default for name, value in OPTIONS.items())


class _Model(nn.Module):
    """Attention over a given sequence, with a mask of an input of the model."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.case = case

    def forward(self, q: Tensor, key_valid: Tensor) -> Tensor:
        case, mask = self.case, Mask(key_valid=key_valid)
        return cross_causal_attention(q, case.k, case.v, case.q_offsets, case.kv_offsets, mask=mask)


def test_torch_fx_traces_a_mask_of_proxies() -> None:
    case = make_case(BATCH, "plain")
    model, valid = _Model(case), torch.rand(len(case.k)) > 0.3
    traced = torch.fx.symbolic_trace(model)
    targets = [node.target for node in traced.graph.nodes if node.op == "call_function"]
    assert Mask in targets and cross_causal_attention in targets
    assert torch.equal(traced(case.q, valid), model(case.q, valid))
    assert not torch.equal(traced(case.q, valid), traced(case.q, ~valid))


@pytest.mark.parametrize(("backend", "whole"), [("triton", True), ("bucketed", False)])
@pytest.mark.parametrize("mode", ["prefix", *(pytest.param(m, marks=pytest.mark.slow) for m in MODES if m != "prefix")])
def test_compiled_equals_eager(mode: Mode, backend: Backend, whole: bool) -> None:
    """A mask from outside and a mask that the compiled function makes; with `triton` in one graph."""
    torch.compiler.reset()
    case = _case(mode).on(DEVICE)

    def given(q: Tensor, mask: Mask) -> Tensor:
        return 2 * cross_causal_attention(
            q, case.k, case.v, case.q_offsets, case.kv_offsets, mask=mask, backend=backend
        )

    def made(q: Tensor, mask: Mask) -> Tensor:
        return given(q, replace(mask, q_positions=None))

    mask = Mask(**case.options)
    for function in (given, made):
        compiled = torch.compile(function, fullgraph=whole, backend="aot_eager")
        assert torch.equal(compiled(case.q, mask), function(case.q, mask))
