"""A HybridOptimizer saved and gone on from: through TorchRec's optimizers, to and from them, and states that do not
fit."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from dist_rec.optim.hybrid import HybridOptimizer
from dist_rec.optim.saved import check_tree
from tests.optim.trajectories import DENSE, Net, Run, flat, make_optimizer, run_step, start


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return torch.equal(a, b)


def _combined(net: nn.Module) -> CombinedOptimizer:
    return CombinedOptimizer([("dense", make_optimizer(net, Run("sgd", warmup=2), lr_factor=None))])


@pytest.mark.parametrize("at", [0, 1, 3])
def test_inside_a_combined_optimizer_nothing_is_lost(at: int) -> None:
    """Saved before the first step, in the synchronous start and with a gradient in flight; loaded into new objects."""

    def go(net: nn.Module, optimizer: CombinedOptimizer, steps: range) -> Tensor:
        for step in steps:
            run_step(net, optimizer, step)  # pyright: ignore[reportArgumentType] - has what it uses
        return flat(net)

    net = Net(False)
    optimizer = _combined(net)
    go(net, optimizer, range(1, at + 1))
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    straight = go(net, optimizer, range(at + 1, 8))
    other = Net(False)
    resumed = _combined(other)
    other.load_state_dict(saved[0])
    resumed.load_state_dict(saved[1])
    assert torch.equal(go(other, resumed, range(at + 1, 8)), straight)
    assert resumed.optimizers[0][1].steps == 7  # pyright: ignore[reportAttributeAccessIssue]


def _stock(net: nn.Module) -> CombinedOptimizer:
    return CombinedOptimizer([KeyedOptimizerWrapper(dict(net.named_parameters()), DENSE["adamw"])])  # pyright: ignore[reportArgumentType]


def _hybrid(net: nn.Module) -> HybridOptimizer:
    return HybridOptimizer(net, DENSE["adamw"], dense_update="sync", skip_nonfinite=False)


@pytest.mark.parametrize(("first", "second"), [(_stock, _hybrid), (_hybrid, _stock), (_stock, _stock)])
def test_a_job_goes_on_with_the_other_kind_of_optimizer(first: Callable[..., Any], second: Callable[..., Any]) -> None:
    found = []
    for change in (False, True):
        torch.manual_seed(0)
        net = Net(False)
        optimizer = first(net)
        for step in range(1, 4):
            run_step(net, optimizer, step)
        if change:
            is_ours = isinstance(optimizer, HybridOptimizer)
            state = copy.deepcopy(optimizer.stock_state_dict() if is_ours else optimizer.state_dict())
            if is_ours:
                optimizer.close()
            optimizer = second(net)
            if second is _stock:
                run_step(
                    net_copy := copy.deepcopy(net), stock := _stock(net_copy), 1
                )  # TorchRec loads into a state that is there
                optimizer = _adopt(net, stock, net_copy)
            optimizer.load_state_dict(state)
        for step in range(4, 7):
            run_step(net, optimizer, step)
        found.append(flat(net))
    assert torch.equal(found[0], found[1])


def _adopt(net: nn.Module, stock: CombinedOptimizer, copied: nn.Module) -> CombinedOptimizer:
    """A stock optimizer of `net` whose state exists, made on a copy so that the weights do not move."""
    made = _stock(net)
    inner, source = (o.optimizers[0][1]._optimizer for o in (made, stock))  # pyright: ignore[reportAttributeAccessIssue]
    for mine, theirs in zip(net.parameters(), copied.parameters(), strict=True):
        inner.state[mine] = source.state[theirs]
    return made


def test_what_is_in_flight_has_no_place_in_a_stock_state() -> None:
    net, optimizer = start(Run("sgd"))
    run_step(net, optimizer, 1)
    with pytest.raises(RuntimeError, match=r"a gradient is in flight.*flush\(\) first"):
        optimizer.stock_state_dict()
    optimizer.flush()
    assert set(optimizer.stock_state_dict()["state"]) == {name for name, _ in net.named_parameters()}


def _without(part: str) -> Callable[[dict[str, Any]], None]:
    return lambda tree: tree.pop(part)


def _other_shape(tree: dict[str, Any]) -> None:
    tree["in_flight"]["mlp.0.bias"]["value"] = torch.zeros(3)


def _other_state_shape(tree: dict[str, Any]) -> None:
    tree["dense"]["state"]["mlp.0.bias"]["exp_avg"] = torch.zeros(3)


def _other_optimizer(tree: dict[str, Any]) -> None:
    tree["dense"]["state"]["mlp.0.bias"] = {"momentum_buffer": torch.zeros(10)}


def _other_tables(tree: dict[str, Any]) -> None:
    tree["fused"] = {"state": {"table": {}}}


def _earlier(tree: dict[str, Any]) -> None:
    """As states looked that had a loss scale, other names and one correction more."""
    tree["counters"], tree["scales"] = torch.zeros(6, dtype=torch.int64), torch.ones(2, dtype=torch.float64)
    tree["withheld"] = {name: entry["value"] for name, entry in tree["in_flight"].items()}
    tree["computed_at"] = tree["in_flight"]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_without("in_flight"), r"expected the state_dict of a HybridOptimizer.*there is no in_flight"),
        (_without("counters"), r"there is no counters"),
        (
            lambda tree: tree["in_flight"].pop("mlp.0.bias"),
            r"of other parameters: mlp.0.bias of in_flight in one of the two only",
        ),
        (_other_shape, r"in_flight.mlp.0.bias.value has the shape \(3,\), expected \(10,\)"),
        (_other_state_shape, r"mlp.0.bias.exp_avg has the shape \(3,\), expected \(10,\)"),
        (_other_optimizer, r"of another dense optimizer.*saved were momentum_buffer, here are step, exp_avg"),
        (_other_tables, r"of other tables: table of fused in one of the two only"),
        (lambda tree: tree.update(counters=torch.zeros(2)), r"damaged: counters has the shape \(2,\)"),
        (lambda tree: tree.update(counters=1.0), "damaged: expected Tensor as counters, got float"),
        (
            lambda tree: tree.update(scales=torch.ones(2)),
            r"saved by an earlier version, which also kept scales; expected",
        ),
        (_earlier, r"saved by an earlier version, which also kept scales and withheld and computed_at"),
        (lambda tree: tree["rates"].pop("mlp.0.bias"), "damaged: mlp.0.bias of rates in one of the two only"),
        (
            lambda tree: tree["in_flight"]["mlp.0.bias"].pop("there"),
            "there of in_flight.mlp.0.bias in one of the two only",
        ),
        (lambda tree: tree["dense"]["exists"].pop("mlp.0.bias"), "damaged: mlp.0.bias of dense.exists"),
        (
            lambda tree: tree["dense"]["state"].pop("mlp.0.bias"),
            "of another dense optimizer: expected mlp.0.bias by name",
        ),
    ],
)
def test_a_state_that_does_not_fit_is_refused_and_changes_nothing(spoil: Callable[..., Any], message: str) -> None:
    net, optimizer = start(Run("adamw"))
    for step in (1, 2):
        run_step(net, optimizer, step)
    before, wrong = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(optimizer.state_dict())
    spoil(wrong)
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(wrong)
    assert _same(optimizer.state_dict(), before)
    check_tree(before, before)


def test_a_state_of_other_groups_loads_by_name() -> None:
    net, optimizer = start(Run("adamw"), lr_factor=None)
    run_step(net, optimizer, 1)
    optimizer.param_groups[0]["lr"] = 0.007  # as a scheduler does
    state = copy.deepcopy(optimizer.state_dict())
    other, resumed = start(Run("adamw"), lr_factor=None, param_groups=[("bias", {"lr": 0.5})])
    other.load_state_dict(net.state_dict())
    resumed.load_state_dict(state)
    assert [group["lr"] for group in resumed.param_groups] == [0.007, 0.007] and resumed.steps == 1
    resumed.param_groups[0]["lr"] = 0.1
    with pytest.raises(ValueError, match="the state is of other parameter groups"):
        optimizer.load_state_dict(resumed.state_dict())


@pytest.mark.parametrize("needed", ["extrapolate", "error_feedback"])
def test_a_correction_needs_its_history(needed: Any) -> None:
    net, optimizer = start(Run("adamw"))
    for step in (1, 2):
        run_step(net, optimizer, step)
    _, other = start(Run("adamw", correction=needed))
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match="the state is of another correction: it has no"):
        other.load_state_dict(optimizer.state_dict())
    assert _same(other.state_dict(), before)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda state: torch.optim.Adam([nn.Parameter(torch.zeros(2))]).state_dict() | {"state": {0: {}}}, "by number"),
        (lambda state: {"state": {}}, "nothing of any parameter"),
        (
            lambda state: {"state": {f"module.{name}": of for name, of in state["state"].items()}},
            "of other parameters: module.mlp",
        ),
        (lambda state: {"state": {**state["state"], "other": {}}}, "of other parameters: other unknown here"),
    ],
)
def test_a_stock_state_of_something_else_is_refused(spoil: Callable[..., Any], message: str) -> None:
    net, optimizer = start(Run("adamw", "sync"))
    run_step(net, optimizer, 1)
    before = copy.deepcopy(optimizer.state_dict())
    with pytest.raises(ValueError, match=message):
        optimizer.load_state_dict(spoil(optimizer.stock_state_dict()))
    assert _same(optimizer.state_dict(), before)
