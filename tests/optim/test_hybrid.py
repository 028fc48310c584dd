"""The hybrid optimizer in one process; several ranks are in tests/integration/test_delayed_trajectories.py."""

import copy
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward

from dist_rec.optim import hybrid
from dist_rec.optim.hybrid import HybridOptimizer
from tests.optim.trajectories import (
    DENSE,
    STEPS,
    TOLERANCE,
    Net,
    Run,
    flat,
    lr_factor,
    make_optimizer,
    run_step,
    simulate,
    start,
    trajectory,
)


def test_recomputed_activations_and_a_compiled_model_change_nothing() -> None:
    run = Run("sgd")
    for wrapped in (
        lambda net, step: torch.utils.checkpoint.checkpoint(net, step, 0, use_reentrant=False),
        lambda net, step: torch.compile(net, backend="aot_eager")(step, 0),
    ):
        net, optimizer = start(run)
        for step in range(1, 8):
            optimizer.zero_grad()
            wrapped(net, step - 1).backward()
            optimizer.step()
        torch.testing.assert_close(flat(net), simulate(run, 1)[6], rtol=0.0, atol=TOLERANCE)


def test_parameters_may_join_later() -> None:
    net, optimizer = start(Run("plain_sgd", clip=None))
    run_step(net, optimizer, 1)
    new = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    optimizer.add_parameters({"new": new}, lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        (net(1, 0) + new.sum()).backward()
        optimizer.step()
    assert new.tolist() == pytest.approx([-0.5 * lr_factor(1)] * 3), "delayed as the others, at its own rate"
    assert optimizer.param_groups[1]["lr"] == pytest.approx(0.5 * lr_factor(1)) and "new" in optimizer.params


def test_torchs_way_of_adding_says_the_right_one() -> None:
    _, optimizer = start(Run("sgd"))
    with pytest.raises(NotImplementedError, match="expected add_parameters"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(1))]})


def test_half_way_through_an_accumulation_nothing_is_saved_or_switched() -> None:
    net, optimizer = start(Run("sgd", accumulation=3))
    net(0, 0).backward()
    optimizer.step()
    for attempt in (optimizer.state_dict, lambda: setattr(optimizer, "dense_update", "sync")):
        with pytest.raises(RuntimeError, match="1 of 3 gradients are added up"):
            attempt()


def test_the_start_is_synchronous_unless_told_otherwise() -> None:
    torch.manual_seed(0)
    net = Net(False)
    optimizer = HybridOptimizer(net, torch.optim.AdamW)
    run_step(net, optimizer, 1)
    assert optimizer.applied == 1 and optimizer.dense_update == "delayed"


def test_delayed_updates_may_have_their_own_rate() -> None:
    run = Run("plain_sgd", warmup=2, clip=None)
    net, optimizer = start(run, delayed_lr_factor=0.25)
    seen = []
    for step in range(1, 6):
        run_step(net, optimizer, step)
        seen.append(optimizer.param_groups[0]["lr"] / 0.1)
    delayed = [0.25 * lr_factor(n) for n in (2, 3)]
    assert seen == pytest.approx([lr_factor(0), lr_factor(1), lr_factor(1), *delayed]), "step 3 applies nothing"


def test_a_schedulers_rate_is_kept_and_comes_back() -> None:
    found = []
    for resume_at in (None, 2):
        torch.manual_seed(0)
        net = Net(False)
        optimizer = HybridOptimizer(net, DENSE["sgd"], warmup_sync_steps=0, delayed_lr_factor=0.5)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
        for step in range(1, 5):
            run_step(net, optimizer, step)
            scheduler.step()
            if step == resume_at:
                saved = copy.deepcopy((net.state_dict(), optimizer.state_dict(), scheduler.state_dict()))
                optimizer.close()
                net = Net(False)
                optimizer = HybridOptimizer(net, DENSE["sgd"], warmup_sync_steps=0, delayed_lr_factor=0.5)
                scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.5)
                for part, state in zip((net, optimizer, scheduler), saved, strict=True):
                    part.load_state_dict(state)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.5**4)
        found.append(flat(net))
    assert torch.equal(found[0], found[1])


def test_flushing_half_way_through_an_accumulation_keeps_what_is_added_up() -> None:
    net, optimizer = start(Run("plain_sgd", accumulation=2, clip=None))
    run_step(net, optimizer, 1, 2)
    net(2, 0).backward()
    optimizer.step()
    half = {name: p.grad.clone() for name, p in net.named_parameters()}
    optimizer.flush()
    assert all(torch.equal(p.grad, half[name]) for name, p in net.named_parameters())
    assert optimizer.applied == 1


@pytest.mark.parametrize("options", [{"dense_update": "sync"}, {"warmup_sync_steps": 1000}])
def test_a_delayed_gradient_of_a_checkpoint_is_applied_before_the_first_synchronous_one(
    options: dict[str, Any],
) -> None:
    net, optimizer = start(Run("sgd"))
    run_step(net, optimizer, 1)
    saved = copy.deepcopy((net.state_dict(), optimizer.state_dict()))
    other, other_optimizer = start(Run("sgd"), seed=7, **options)
    other.load_state_dict(saved[0])
    other_optimizer.load_state_dict(saved[1])
    run_step(other, other_optimizer, 2)
    assert other_optimizer.applied == 2


def test_a_state_of_other_parameters_is_refused() -> None:
    _, optimizer = start(Run("sgd"))
    _, other = start(Run("sgd", extra=True))
    with pytest.raises(ValueError, match="the state is of other parameters: extra of in_flight in one of the two only"):
        optimizer.load_state_dict(other.state_dict())


def test_hooks_run_and_closures_are_refused() -> None:
    net, optimizer = start(Run("sgd"))
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    run_step(net, optimizer, 1)
    assert seen == ["before", "after"]
    with pytest.raises(ValueError, match="step takes no closure"):
        optimizer.step(lambda: 0.0)


def test_torchrecs_init_state_makes_no_step() -> None:
    net, optimizer = start(Run("adamw", "sync"))
    before = flat(net)
    optimizer.init_state()
    assert torch.equal(flat(net), before) and optimizer.steps == 0


def test_health_is_measured_when_asked_for() -> None:
    net, optimizer = start(Run("sgd"), health_every=2)
    for step in range(1, 5):
        run_step(net, optimizer, step)
    assert optimizer.health is not None and optimizer.health.applied == 2
    assert -1.0 <= float(optimizer.health.gradient_cosine) <= 1.0 and float(optimizer.health.update_norm) > 0


def test_an_unknown_update_is_refused() -> None:
    with pytest.raises(ValueError, match="dense_update must be sync or delayed, got 'async'"):
        HybridOptimizer(Net(False), DENSE["sgd"], dense_update="async")  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("dense", DENSE)
def test_the_first_step_applies_nothing_and_flush_applies_the_rest(dense: str) -> None:
    net, optimizer = start(Run(dense))
    before = flat(net)
    run_step(net, optimizer, 1)
    assert torch.equal(flat(net), before) and (optimizer.steps, optimizer.applied) == (1, 0)
    run_step(net, optimizer, 2)
    after_two = flat(net)
    assert not torch.equal(after_two, before) and (optimizer.steps, optimizer.applied) == (2, 1)
    optimizer.flush()
    flushed = flat(net)
    assert not torch.equal(flushed, after_two) and (optimizer.steps, optimizer.applied) == (2, 2)
    optimizer.flush()
    assert torch.equal(flat(net), flushed) and optimizer.applied == 2


@pytest.mark.parametrize("dense", DENSE)
def test_saving_changes_nothing(dense: str) -> None:
    """Not the weights, not the step that follows, not the learning rate."""
    run = Run(dense, clip=0.5, extra=True)
    net, optimizer = start(run)
    for step in range(1, STEPS + 1):
        optimizer.state_dict()
        run_step(net, optimizer, step)
        rate = optimizer.param_groups[0]["lr"]
        optimizer.state_dict()
        assert optimizer.param_groups[0]["lr"] == rate
    assert torch.equal(flat(net), trajectory(run)[-1])


@pytest.mark.parametrize("dense", DENSE)
def test_a_state_has_the_same_keys_at_any_time(dense: str) -> None:
    """DCP needs to know them before it loads."""
    keys = []
    for steps in (0, 1, 2, 6):
        net, optimizer = start(Run(dense, extra=True))
        for step in range(1, steps + 1):
            run_step(net, optimizer, step)
        keys.append(_keys(optimizer.state_dict()))
    assert all(k == keys[0] for k in keys)
    assert {f"dense.state.{name}.momentum_buffer" for name, _ in net.named_parameters()} <= keys[0] or dense != "sgd"


def _keys(tree: Any, above: str = "") -> set[str]:
    if not isinstance(tree, dict):
        return {above}
    return {key for name, value in tree.items() for key in _keys(value, f"{above}.{name}" if above else name)}


def test_learning_rate_and_norm_can_be_read() -> None:
    net, optimizer = start(Run("adamw", "sync", clip=0.5))
    assert isinstance(optimizer, torch.optim.Optimizer)
    for step in range(1, 4):
        run_step(net, optimizer, step)
        assert optimizer.param_groups[0]["lr"] == pytest.approx(0.02 * lr_factor(step - 1))
        assert optimizer.grad_norm is not None and optimizer.grad_norm > 0.5


def test_parameters_that_others_update_are_left_alone() -> None:
    """Fused tables apply their own optimizer in the backward; frozen parameters have none."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2), nn.Linear(2, 1))
    apply_optimizer_in_backward(torch.optim.SGD, net[0].parameters(), {"lr": 0.1})
    net[1].requires_grad_(False)
    optimizer = HybridOptimizer(net, DENSE["sgd"])
    assert set(optimizer.state_dict()["dense"]["state"]) == {"2.weight", "2.bias"}


def test_parameters_that_thaw_later_are_an_error_until_they_are_added() -> None:
    net, optimizer = start(Run("plain_sgd", clip=None), seed=3)
    optimizer.close()
    net.mlp[0].requires_grad_(False)
    optimizer = make_optimizer(net, Run("plain_sgd", clip=None))
    run_step(net, optimizer, 1)
    net.mlp[0].requires_grad_(True)
    with pytest.raises(RuntimeError, match=r"mlp.0.weight \(2 parameters\) was frozen.*expected add_parameters"):
        run_step(net, optimizer, 2)
    optimizer.zero_grad()
    optimizer.add_parameters({f"mlp.0.{name}": p for name, p in net.mlp[0].named_parameters()})
    before = net.mlp[0].weight.detach().clone()
    for step in (3, 4):
        run_step(net, optimizer, step)
    assert not torch.equal(net.mlp[0].weight, before)


def test_zero_grad_clears_or_zeroes() -> None:
    net, optimizer = start(Run("sgd", accumulation=2))
    net(1, 0).backward()
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad is not None and not p.grad.any() for p in net.parameters())
    optimizer.zero_grad()
    assert all(p.grad is None for p in net.parameters())


def _told(optimizer: HybridOptimizer, net: nn.Module) -> list[tuple[Tensor | None, Tensor]]:
    """Fills with what a hook is told, and the weights there are then."""
    told: list[tuple[Tensor | None, Tensor]] = []
    optimizer.register_update_hook(lambda applied: told.append((applied, flat(net))))
    return told


@pytest.mark.parametrize(
    ("run", "after_steps"),
    [
        (Run("adamw", "sync"), [1, 2, 3, 4, 4]),
        (Run("adamw"), [0, 1, 2, 3, 4]),
        (Run("adamw", warmup=2), [1, 2, 2, 3, 4]),
        (Run("sgd", "sync", accumulation=2), [1, 2, 3, 4, 4]),
        (Run("sgd", accumulation=2), [0, 1, 2, 3, 4]),
    ],
)
def test_a_hook_is_called_once_for_every_version(run: Run, after_steps: list[int]) -> None:
    """`after_steps`: versions after each of four steps, and after flushing, which applies what is in flight."""
    net, optimizer = start(run)
    told, counts = _told(optimizer, net), []
    for step in range(1, 5):
        run_step(net, optimizer, step, run.accumulation)
        counts.append(len(told))
    optimizer.flush()
    optimizer.flush()
    assert [*counts, len(told)] == after_steps and optimizer.applied == len(told)
    versions = [weights for _, weights in told]
    assert torch.equal(versions[-1], flat(net)) and all(applied is None for applied, _ in told)
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(versions))


def _with_a_broken_gradient(net: nn.Module, optimizer: HybridOptimizer, broken: int) -> None:
    """Four steps, one of which has a gradient that is no number."""
    for step in range(1, 5):
        optimizer.zero_grad()
        loss = net(step, 0)
        (loss * torch.nan if step == broken else loss).backward()
        optimizer.step()
    optimizer.flush()


@pytest.mark.parametrize("update", ["sync", "delayed"])
def test_a_gradient_that_is_dropped_makes_no_version(update: Any) -> None:
    net, optimizer = start(Run("adamw", update))
    told = _told(optimizer, net)
    _with_a_broken_gradient(net, optimizer, 2)
    assert (len(told), optimizer.applied, optimizer.skipped) == (3, 3, 1)
    assert all(applied is None for applied, _ in told) and flat(net).isfinite().all()


@pytest.mark.parametrize("update", ["sync", "delayed"])
def test_where_the_device_decides_a_hook_gets_its_flag(update: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: the host calls for all of them, and the flag says which of them were applied."""
    monkeypatch.setattr(hybrid, "is_finite", lambda norm, reduce, *, read: norm.isfinite())
    net, optimizer = start(Run("adamw", update))
    told = _told(optimizer, net)
    _with_a_broken_gradient(net, optimizer, 2)
    flags = [applied for applied, _ in told]
    assert all(isinstance(flag, Tensor) and flag.dtype == torch.bool and flag.dim() == 0 for flag in flags)
    assert [bool(flag) for flag in flags] == [True, False, True, True]
    assert (optimizer.applied, optimizer.skipped) == (3, 1)
    first, dropped, *_ = (weights for _, weights in told)
    assert torch.equal(first, dropped)
