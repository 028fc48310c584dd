"""What is counted of an operator, and in which stage."""

import logging

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from dist_rec.cost.ledger import Ledger, Operator, as_on_a_gpu, kernels_of_a_gpu
from dist_rec.data import unique_tokens
from dist_rec.kernels import gather_pool
from dist_rec.kernels.cross_causal_attention import cross_causal_attention
from dist_rec.kernels.gather_pool import expand


def _one(ledger: Ledger, name: str) -> Operator:
    (found,) = [each for each in ledger.operators if each.name == name]
    return found


def test_a_product() -> None:
    a, b = torch.ones(100, 8), torch.ones(8, 16)
    with Ledger() as ledger:
        a @ b
    found = _one(ledger, "mm")
    assert (found.kind, found.flops, found.dim) == ("matmul", 2 * 100 * 8 * 16, 8)
    assert found.nbytes == 4 * (100 * 8 + 8 * 16 + 100 * 16) and not found.half


def test_rows_that_are_not_picked_are_not_read() -> None:
    table, index = torch.ones(10_000, 8), torch.arange(5)
    with Ledger() as ledger:
        table.index_select(0, index)
    found = _one(ledger, "index_select")
    assert (found.kind, found.nbytes) == ("gather", 2 * 5 * 8 * 4 + 5 * 8)


def test_a_packed_index_does_not_hide_rows() -> None:
    """A gradient of more rows than the index has words counts whole."""
    with FakeTensorMode(allow_non_fake_inputs=True), as_on_a_gpu():
        rows = torch.empty(50, 8, requires_grad=True)
        index = unique_tokens.BitPackedIndex(torch.empty(189, dtype=torch.int32), 6, 1000)
        with Ledger() as ledger:
            expand(rows, index)
    assert sum(each.nbytes for each in ledger.operators) >= 4 * 8 * (1000 + 50)


def test_kernels_say_nothing_of_a_gpu_that_is_not_there(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("dist_rec.kernels")
    with caplog.at_level(logging.INFO, "dist_rec.kernels"):
        with as_on_a_gpu():
            log.info("gelu: torch (inputs on cpu)")
            log.warning("told all the same")
        log.info("told again")
    assert caplog.messages == ["told all the same", "told again"]


@pytest.mark.parametrize(("call", "kind"), [("add", "stream"), ("add_", "inplace"), ("sum", "inplace")])
def test_memory_that_is_new_and_memory_that_is_there(call: str, kind: str) -> None:
    x = torch.ones(1000)
    with Ledger() as ledger:
        getattr(x, call)(*(() if call == "sum" else (x.clone(),)))
    assert _one(ledger, call).kind == kind


@pytest.mark.unfilled("filling is an operator, which would be counted")
def test_views_and_allocations_are_free_and_expanded_dims_count_once() -> None:
    x = torch.ones(4, 1)
    with Ledger() as ledger:
        wide = x.expand(4, 100).T
        x.new_empty(0)
    assert not ledger.operators
    with Ledger() as ledger:
        wide.clone()
    assert _one(ledger, "clone").nbytes == 4 * 4 + 4 * 400


def test_stages_are_those_of_modules_and_the_backward_has_its_own() -> None:
    inner, outer, x = nn.Linear(4, 4), nn.Linear(4, 4), torch.ones(2, 4)
    model = nn.Sequential(outer, nn.Sequential(nn.ReLU(), inner))
    with Ledger("around") as ledger, ledger.inside({model: "model", inner: "inner"}):
        out = model(x) + 1
        out.sum().backward()
    stages = [each.stage for each in ledger.operators]
    assert stages[:4] == ["model", "model", "inner", "around"] and stages[-1] == "backward"
    with Ledger("around") as ledger:
        model(x)
    assert {each.stage for each in ledger.operators} == {"around"}, "hooks are gone"


def test_the_fused_attention_by_its_shapes() -> None:
    """2 requests of 3 rows over 5 keys, 2 heads of 4: forward 4, backward 10 per row, key and column."""
    with FakeTensorMode(allow_non_fake_inputs=True), kernels_of_a_gpu():
        q, k, v = (torch.empty(2 * n, 2, 4, requires_grad=True) for n in (3, 5, 5))
        offsets = [torch.tensor([0, n, 2 * n], dtype=torch.int32) for n in (3, 5)]
        with Ledger() as ledger:
            cross_causal_attention(q, k, v, *offsets).sum().backward()
    found = [each for each in ledger.operators if each.kind == "attention"]
    assert [each.flops for each in found] == [4 * 2 * 3 * 5 * 8, 10 * 2 * 3 * 5 * 8]
    assert [each.dim for each in found] == [4, 4]


def test_kernels_are_chosen_as_before_afterwards() -> None:
    choose, unpack = gather_pool.choose, unique_tokens.unpack_inverse
    with pytest.raises(RuntimeError), as_on_a_gpu():
        assert gather_pool.choose("x", "auto", torch.device("cpu")) == "triton"
        raise RuntimeError
    assert gather_pool.choose is choose and unique_tokens.unpack_inverse is unpack
