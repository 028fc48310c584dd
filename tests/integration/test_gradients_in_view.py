"""A job's own tools between `backward()` and `step()`: clipping is `clip_norm`, to the bit, and a look changes
nothing."""

import copy
import gc
import itertools
import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.optim.clipping import GradientClipping, GradientClippingOptimizer

from dist_rec.optim.hybrid import HybridOptimizer
from tests.helpers.ranks import run_ranks
from tests.optim.trajectories import STEPS, Run, flat, start, this_rank

LIMIT = 0.5
Tool = Callable[[nn.Module], Any]
RUNS = [
    *(Run("adamw", "delayed", warmup, accumulation=n) for warmup in (0, 3) for n in (1, 2)),
    Run("sgd", "sync"),
    *(Run("sgd", "delayed", 3, accumulation=n, wrap="ddp") for n in (1, 2)),
    Run("sgd", "sync", wrap="ddp"),
]


def clip(net: nn.Module) -> None:
    torch.nn.utils.clip_grad_norm_(net.parameters(), LIMIT)


def look(net: nn.Module) -> None:
    assert all(torch.isfinite(p.grad.norm()) for p in net.parameters() if p.grad is not None)


def halve(net: nn.Module) -> None:
    for p in net.parameters():
        p.grad = None if p.grad is None else p.grad * 0.5


def trajectory(run: Run, tool: Tool | None, *, wrapped: bool = False, **options: Any) -> list[Tensor]:
    """The weights after every step, and after what was in flight; the tool is used before every step that updates."""
    net, optimizer = start(run, **options)
    around: Any = optimizer
    if wrapped:
        around = GradientClippingOptimizer(optimizer, clipping=GradientClipping.NORM, max_gradient=LIMIT)
    weights = []
    for batch in range(STEPS * run.accumulation):
        around.zero_grad()
        net(batch, this_rank()).backward()
        last = (batch + 1) % run.accumulation == 0
        if tool is not None and last:
            tool(net)
        around.step()
        weights += [flat(net)] * last
    if tool is not None and run.update == "delayed":
        optimizer.show_in_flight()
        tool(net)
    optimizer.flush()
    optimizer.close()
    return [*weights, flat(net)]


def _compared() -> list[str]:
    wrong = []
    for run in RUNS:
        unclipped = replace(run, clip=None)
        by_option, plain = trajectory(replace(run, clip=LIMIT), None), trajectory(unclipped, None)
        clipped = {"clip_grad_norm_": trajectory(unclipped, clip)}
        if run.accumulation == 1:
            clipped["GradientClippingOptimizer"] = trajectory(unclipped, None, wrapped=True)[:STEPS]
        for name, found in clipped.items():
            if not all(torch.equal(a, b) for a, b in zip(found, by_option)):
                wrong.append(f"{run}, {name}: not as clip_norm")
        if not all(torch.equal(a, b) for a, b in zip(trajectory(unclipped, look), plain, strict=True)):
            wrong.append(f"{run}: a look has changed something")
        if torch.equal(by_option[-1], plain[-1]):
            wrong.append(f"{run}: nothing was clipped, so that nothing is tested")
    return wrong


@pytest.mark.filterwarnings("ignore:flush")
@pytest.mark.parametrize("world_size", [1, 2])
def test_clipping_there_is_clip_norm_and_a_look_changes_nothing(world_size: int) -> None:
    for wrong in run_ranks(_compared, world_size):
        assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("update", ["delayed", "sync"])
def test_other_tensors_put_there_are_applied(update: Any) -> None:
    run = Run("plain_sgd", update, clip=None)
    first = 1 if update == "delayed" else 0  # the first delayed step applies nothing
    before = flat(start(run)[0])
    full, half = (trajectory(run, tool, lr_factor=None)[first] for tool in (None, halve))
    torch.testing.assert_close((full - before) * 0.5, half - before)


@pytest.mark.parametrize("update", ["delayed", "sync"])
def test_what_is_put_there_without_a_look_is_applied(update: Any) -> None:
    net, optimizer = start(Run("plain_sgd", update, clip=None), lr_factor=None)
    for batch in range(3):
        optimizer.zero_grad()
        net(batch, 0).backward()
        before = copy.deepcopy(net)
        if batch == 1:
            for p in net.parameters():
                p.grad = torch.ones_like(p)
        if batch == 2:
            net.mlp[0].weight.grad = None
        optimizer.step()
        if batch == 1:
            torch.testing.assert_close(flat(net), flat(before) - 0.1)
    assert torch.equal(net.mlp[0].weight, before.mlp[0].weight) and not torch.equal(
        net.mlp[2].weight, before.mlp[2].weight
    )


TOOLS: dict[str, Tool] = {
    "norm": lambda net: [p.grad.norm() for p in net.parameters()],
    "in place": lambda net: [p.grad.mul_(1.0) for p in net.parameters()],
    "data": lambda net: [p.grad.data.abs().max() for p in net.parameters()],
    "indexing": lambda net: [p.grad.flatten()[0].item() for p in net.parameters()],
    "vector": lambda net: nn.utils.parameters_to_vector([p.grad for p in net.parameters()]),
    "foreach": lambda net: torch._foreach_norm([p.grad for p in net.parameters()]),
    "value": lambda net: nn.utils.clip_grad_value_(net.parameters(), 1e9),
    "aten": lambda net: [torch.ops.aten.sum(p.grad) for p in net.parameters()],
    "numpy": lambda net: [p.grad.numpy().sum() for p in net.parameters()],
    "no step for it": lambda net: [torch.func.vmap(torch.sum)(p.grad) for p in net.parameters() if p.ndim == 2],
}


@pytest.mark.parametrize(
    "run", [Run("adamw", clip=None), Run("adamw", "delayed", 2, clip=None), Run("adamw", "sync", clip=None)]
)
@pytest.mark.parametrize("tool", TOOLS)
def test_every_tool_may_look_in_every_step(tool: str, run: Run) -> None:
    looked, plain = trajectory(run, TOOLS[tool]), trajectory(run, None)
    assert all(torch.equal(a, b) for a, b in zip(looked, plain, strict=True))


def _without_bad_steps(update: Any, warmup: int, drop: str) -> tuple[Tensor, Tensor]:
    """Ten batches of which every third is bad: looked at and left out in some way; and the same without them."""
    weights = []
    for left_out in (True, False):
        net, optimizer = start(Run("adamw", update, warmup, clip=None, wrap="none"), seed=0)
        for batch in range(10):
            bad = batch % 3 == 1
            if bad and not left_out:
                continue
            optimizer.zero_grad()
            net(batch, this_rank()).backward()
            if bad:
                if "look" in drop:
                    look(net)
                if "zero_grad" in drop:
                    optimizer.zero_grad()
                if "module" in drop:
                    net.zero_grad()
                if "again" in drop:
                    net(batch + 1, this_rank()).backward()
                    optimizer.zero_grad()
                continue
            optimizer.step()
        optimizer.flush()
        optimizer.close()
        weights.append(flat(net))
    return weights[0], weights[1]


DROPS = [
    "",
    "look",
    "zero_grad",
    "look, zero_grad",
    "module",
    "look, module",
    "zero_grad, again",
    "look, module, again",
]


def _dropped() -> list[str]:
    found = []
    for (update, warmup), drop in itertools.product((("sync", 0), ("delayed", 0), ("delayed", 4)), DROPS):
        mine, expected = _without_bad_steps(update, warmup, drop)
        if not torch.equal(mine, expected):
            found.append(f"{update}, {warmup}, {drop!r}: {float((mine - expected).abs().max())}")
    return found


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_backward_without_a_step_leaves_no_trace(world_size: int) -> None:
    """Looked at, cleared in every way, followed by another one: the weights are those of a job that never had the
    batch."""
    for wrong in run_ranks(_dropped, world_size):
        assert not wrong, "\n".join(wrong)


def _one_rank_drops() -> str:
    net, optimizer = start(Run("sgd", "sync", clip=None))
    net(0, this_rank()).backward()
    if dist.get_rank() == 1:
        optimizer.zero_grad()
    try:
        optimizer.step()
        optimizer.zero_grad()
        net(1, this_rank()).backward()
        optimizer.step()
    except RuntimeError as error:
        return str(error)
    return ""


def _clips_where_there_is_data(update: str) -> str:
    net, optimizer = start(Run("sgd", update, clip=None))  # pyright: ignore[reportArgumentType]
    try:
        for batch in range(4):
            optimizer.zero_grad()
            if batch != 1 or dist.get_rank() == 0:
                net(batch, this_rank()).backward()
            clip(net)
            optimizer.step()
    except RuntimeError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("update", ["sync", "delayed"])
def test_clipping_on_a_rank_without_data_is_told(update: str) -> None:
    """It finds nothing to clip, and applies what the others clip: their weights would drift apart."""
    told = run_ranks(_clips_where_there_is_data, 2, update)
    assert all("on 1 of 2 ranks" in said and "expected clip_norm" in said.lower() for said in told), told


def test_one_rank_alone_cannot_drop_a_gradient() -> None:
    assert all("on 1 of 2 ranks" in said for said in run_ranks(_one_rank_drops, 2))


def test_a_module_cleared_before_the_step_applies_nothing() -> None:
    for clear in (lambda net: net.zero_grad(), lambda net: [setattr(p, "grad", None) for p in net.parameters()]):
        net, optimizer = start(Run("sgd", "sync", clip=None))
        before = flat(net)
        net(0, 0).backward()
        clear(net)
        optimizer.step()
        assert torch.equal(flat(net), before) and optimizer.applied == 0


def test_gradients_of_gradients() -> None:
    net, optimizer = start(Run("sgd", "sync", clip=None))
    net(0, 0).backward(create_graph=True)
    optimizer.step()


def test_a_flush_that_no_tool_has_seen_is_told() -> None:
    run = Run("sgd", clip=None)
    net, optimizer = start(run)
    for batch in range(3):
        optimizer.zero_grad()
        net(batch, 0).backward()
        clip(net)
        optimizer.step()
    with pytest.warns(UserWarning, match=r"no chance to change \(clip\).*clip_norm.*show_in_flight"):
        optimizer.flush()
    net, optimizer = start(run)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimizer.zero_grad()
        net(0, 0).backward()
        look(net)
        optimizer.step()
        optimizer.flush()


def test_gradients_that_are_not_finite_are_skipped_after_a_look_too() -> None:
    net, optimizer = start(Run("sgd", "sync", clip=None))
    before = flat(net)
    optimizer.zero_grad()
    (net(0, 0) * float("inf")).backward()
    clip(net)
    optimizer.step()
    assert torch.equal(flat(net), before) and optimizer.skipped == 1


def test_a_hook_inside_the_backward_is_told() -> None:
    net, _ = start(Run("sgd"))
    net.mlp[0].weight.register_post_accumulate_grad_hook(lambda p: p.grad.norm())
    with pytest.raises(RuntimeError, match=r"mlp.0.weight: its p.grad was read inside the backward"):
        net(0, 0).backward()


def _unused_here() -> str:
    run = Run("sgd", "sync", extra=True)  # `extra` has a gradient on rank 0 only
    net, _optimizer = start(run)
    net(0, dist.get_rank()).backward()
    try:
        clip(net)
    except RuntimeError as error:
        return str(error)
    finally:
        dist.barrier()
    return "clipped"


def test_gradients_of_other_ranks_that_a_tool_cannot_see_are_told() -> None:
    seen, told = run_ranks(_unused_here, 2)
    assert seen == "clipped" and "extra has a gradient of other ranks" in told and "expected clip_norm" in told


def test_recomputing_checkpoints_and_two_backwards() -> None:
    net, optimizer = start(Run("sgd", "sync"))
    x = torch.randn(4, 10, dtype=torch.float64, requires_grad=True)
    for reentrant in (True, False):
        optimizer.zero_grad()
        torch.utils.checkpoint.checkpoint(net.mlp, x, use_reentrant=reentrant).sum().backward()
        optimizer.step()
    optimizer.zero_grad()
    net(0, 0).backward()
    with pytest.raises(RuntimeError, match="got a second gradient"):
        net(1, 0).backward()


def test_the_optimizer_can_be_dropped_after_a_look() -> None:
    net, optimizer = start(Run("sgd"))
    net(0, 0).backward()
    look(net)
    optimizer.step()
    alive = weakref.ref(optimizer)
    del optimizer
    gc.collect()
    assert alive() is None and isinstance(HybridOptimizer(net, torch.optim.AdamW), HybridOptimizer)
