"""The all-reduce by itself: means by name, whatever had a gradient where, and nothing mixed up between steps."""

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_rec.optim.delayed import DelayedAllReduce
from tests.helpers.ranks import run_ranks

SHAPES = {"both": (2, 3), "first": (4,), "none": (3,), "wide": (2,), "scalar": ()}


def _parameters() -> dict[str, nn.Parameter]:
    """`wide` is float64, the others float32; values differ between ranks."""
    rank = dist.get_rank() if dist.is_initialized() else 0
    kinds = {name: torch.float64 if name == "wide" else torch.float32 for name in SHAPES}
    return {name: nn.Parameter(torch.full(shape, 10.0 + rank, dtype=kinds[name])) for name, shape in SHAPES.items()}


def _backward(parameters: dict[str, nn.Parameter], names: list[str], shift: float) -> None:
    """Gradients 0, 1, 2, ... + shift for the parameters named, in the order named."""
    loss = torch.zeros((), dtype=torch.float64)
    for name in names:
        p = parameters[name]
        weights = torch.arange(p.numel(), dtype=p.dtype).view(p.shape) + shift
        loss = loss + (p * weights).sum()
    if names:
        loss.backward()


def _reducer(parameters: dict[str, nn.Parameter], **options: Any) -> DelayedAllReduce:
    return DelayedAllReduce(parameters, **options)


def _mean_over_ranks() -> dict[str, Any]:
    parameters, rank = _parameters(), dist.get_rank()
    reducer = _reducer(parameters, bucket_cap_mb=1e-5)
    names = [name for name in SHAPES if name not in (("none",) if rank == 0 else ("none", "first"))]
    _backward(parameters, names, rank)
    first = reducer.start()
    # The next step begins before the first is waited for, with the parameters in another order and other ones missing.
    _backward(parameters, names[::-1][rank:], 10.0 + rank)
    second = reducer.start()
    return {
        "first": {name: g.clone() for name, g in first.wait().items()},
        "second": {name: g.clone() for name, g in second.wait().items()},
        "cleared": all(p.grad is None for p in parameters.values()),
        "buckets": len(reducer._buckets),
    }


def test_two_ranks_get_the_mean_by_name() -> None:
    for found in run_ranks(_mean_over_ranks, 2):
        means = found["first"]
        assert list(means) == ["both", "first", "wide", "scalar"], "what no rank had is left out"
        assert means["both"].tolist() == [[0.5, 1.5, 2.5], [3.5, 4.5, 5.5]]
        assert means["first"].tolist() == [0.0, 0.5, 1.0, 1.5], "the other rank counts as zero"
        assert means["wide"].tolist() == [0.5, 1.5] and means["wide"].dtype == torch.float64
        assert means["scalar"].item() == 0.5 and means["scalar"].shape == ()
        assert found["second"]["both"].tolist() == [[10.5, 11.5, 12.5], [13.5, 14.5, 15.5]]
        assert found["second"]["scalar"].item() == 5.0, "rank 1 left it out this time"
        assert found["cleared"] and found["buckets"] == 5


def _rank_without_data() -> Tensor:
    parameters = _parameters()
    reducer = _reducer(parameters)
    _backward(parameters, ["both"] if dist.get_rank() else [], 1.0)
    return reducer.start().wait()["both"].clone()


def test_a_rank_without_data_takes_part() -> None:
    for mean in run_ranks(_rank_without_data, 2):
        assert mean.tolist() == [[0.5, 1.0, 1.5], [2.0, 2.5, 3.0]]


def test_a_bucket_starts_inside_the_backward_and_in_order() -> None:
    parameters = {name: nn.Parameter(torch.ones(4)) for name in ("first", "last")}
    reducer = _reducer(parameters, bucket_cap_mb=1e-6)
    seen: list[list[int]] = []

    def look(_: Tensor) -> None:
        pending = reducer._pending
        seen.append([len(pending.buffers) if pending is not None else 0])

    parameters["first"].register_hook(
        look
    )  # runs when the gradient of `first` is about to be added; that of `last` is there
    hidden = parameters["first"] * 2.0
    (hidden * parameters["last"]).sum().backward()
    assert seen == [[1]], "the bucket of `last` started before `first` had its gradient"
    assert len(reducer.start().buffers) == 2


def test_one_process_without_a_group() -> None:
    parameters = _parameters()
    reducer = _reducer(parameters)
    _backward(parameters, ["both"], 1.0)
    pending = reducer.start()
    means = pending.wait()
    assert list(means) == ["both"] and means["both"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert pending.norm() == pytest.approx(91.0**0.5) and pending.is_finite(pending.norm())
    assert _reducer({}).start().wait() == {}


def test_accumulation_divides_and_keeps_what_an_earlier_backward_left() -> None:
    parameters = _parameters()
    reducer = _reducer(parameters, backwards_per_step=2)
    reducer.active = False
    _backward(parameters, ["both", "first"], 1.0)
    reducer.active = True
    _backward(parameters, ["both"], 3.0)
    means = reducer.start().wait()
    assert means["both"].flatten().tolist() == [2, 3, 4, 5, 6, 7] and means["first"].tolist() == [0.5, 1, 1.5, 2]


def test_a_second_backward_in_a_step_is_refused() -> None:
    parameters = _parameters()
    reducer = _reducer(parameters, bucket_cap_mb=1e-5)
    _backward(parameters, ["both"], 1.0)
    with pytest.raises(RuntimeError, match=r"both got a second gradient since the last step.*accumulation_steps"):
        _backward(parameters, ["both"], 1.0)
    assert list(reducer.start().wait()) == ["both"]


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(4, 2, sparse=True)
    reducer = _reducer({"table.weight": table.weight})
    assert list(reducer.parameters) == ["table.weight"]
    with pytest.raises(ValueError, match=r"table.weight: its gradient is sparse, expected dense"):
        table(torch.tensor([1])).sum().backward()


def test_buffers_are_two_gradients_whatever_the_number_of_steps() -> None:
    parameters = {name: nn.Parameter(torch.ones(100)) for name in "ab"}
    reducer = _reducer(parameters, bucket_cap_mb=4e-4)
    pending = None
    for step in range(6):
        _backward(parameters, ["a", "b"], step)
        started = reducer.start()
        if pending is not None:
            pending.wait()
            pending.release()
        pending = started
    assert reducer.nbytes == 2 * 2 * 100 * 4


def test_parameters_may_join_while_gradients_are_being_reduced() -> None:
    parameters = _parameters()
    reducer = _reducer(parameters)
    _backward(parameters, ["both"], 1.0)
    pending = reducer.start()
    new = {"new": nn.Parameter(torch.ones(3))}
    reducer.add(new)
    _backward(parameters | new, ["both", "new"], 5.0)
    assert list(pending.wait()) == ["both"]
    assert list(reducer.start().wait()) == ["both", "new"]
    with pytest.raises(ValueError, match="new is reduced already"):
        reducer.add(new)


def test_tied_and_recomputed_parameters_have_one_gradient() -> None:
    weight = nn.Parameter(torch.ones(3))
    reducer = _reducer({"weight": weight})
    x = torch.ones(3, requires_grad=True)
    recomputed = torch.utils.checkpoint.checkpoint(lambda x: x * weight * weight, x, use_reentrant=False)
    assert isinstance(recomputed, Tensor)
    recomputed.sum().backward()
    assert reducer.start().wait()["weight"].tolist() == [2.0, 2.0, 2.0]


def _compressed(steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sums of the reduced means and of the exact means, and the residual."""
    parameters = {"a": nn.Parameter(torch.zeros(50)), "wide": nn.Parameter(torch.zeros(2, dtype=torch.float64))}
    reducer = _reducer(parameters, compress="bf16")
    got, exact = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    for step in range(steps):
        shift = 0.123 + step + 0.01 * dist.get_rank()
        _backward(parameters, ["a", "wide"], shift)
        pending = reducer.start()
        means = pending.wait()
        got += means["a"].double()
        exact += torch.arange(50) + 0.123 + step + 0.005
        assert means["wide"].dtype == torch.float64
        assert (means["wide"] - torch.arange(2) - 0.123 - step - 0.005).abs().max() < 1e-12, "only fp32 is compressed"
        pending.release()
    return got, exact, reducer.residual()["a"].double()


def test_compression_adds_the_rounding_error_to_the_next_gradient() -> None:
    """The means and the residual add up to the exact sum, except for the rounding of bf16 sums over the ranks."""
    for got, exact, residual in run_ranks(_compressed, 2, 40):
        last_roundings = 40 * 50 * 2**-8  # of the sum of two bf16 numbers, which no rank sees
        assert (got + residual - exact).abs().max() < last_roundings
        assert residual.abs().max() > 0
        plain = exact.abs().max() * 2**-8
        assert (got - exact).abs().max() < plain, "without the feedback the error grows with every step"


def test_a_residual_that_is_not_finite_is_dropped() -> None:
    parameters = {"a": nn.Parameter(torch.zeros(3))}
    reducer = _reducer(parameters, compress="bf16")
    for shift in (float("inf"), float("nan"), 1.0):
        _backward(parameters, ["a"], shift)
        pending = reducer.start()
        means = pending.wait()
        assert pending.is_finite(pending.norm()) == (shift == 1.0)
    assert means["a"].tolist() == [1.0, 2.0, 3.0]


def _order_of_buckets() -> list[list[int]]:
    """The buckets started by the end of the backward, in four steps; `idle` has a gradient in the last step only."""
    parameters = {name: nn.Parameter(torch.ones(4)) for name in ("a", "idle", "b")}
    reducer, started = _reducer(parameters, bucket_cap_mb=1e-6), []
    for step in range(4):
        names = ["a", "b"] if step < 3 or dist.get_rank() else ["a", "idle", "b"]
        _backward(parameters, names, 1.0)
        assert reducer._pending is not None
        started.append(list(reducer._pending.buffers))
        pending = reducer.start()
        assert list(reducer.wait(pending)) == (["a", "b"] if step < 3 else ["a", "idle", "b"])
        pending.release()
    return started


def test_a_parameter_that_had_no_gradient_does_not_delay_the_others() -> None:
    first, second = run_ranks(_order_of_buckets, 2)
    assert second == [[0], [0, 2], [0, 2], [0, 2]], "bucket 1 is the idle one's"
    assert first == second, "also where this rank has its gradient again: the order of collectives is one"


def _started_before_start(in_backward: bool) -> list[list[int]]:
    """The same, where rank 1 has no gradient of `b` for the first time in the second step."""
    parameters = {name: nn.Parameter(torch.ones(4)) for name in ("a", "b")}
    reducer, started = _reducer(parameters, bucket_cap_mb=1e-6), []
    reducer.in_backward = in_backward
    for step in range(3):
        _backward(parameters, ["a"] if step == 1 and dist.get_rank() else ["a", "b"], 1.0)
        assert reducer._pending is not None
        started.append(list(reducer._pending.buffers))
        pending = reducer.start()
        assert list(pending.buffers) == [0, 1] or step == 2
        reducer.wait(pending)
        pending.release()
    return started


def test_buckets_that_wait_for_start_leave_in_one_order_whatever_has_a_gradient() -> None:
    assert run_ranks(_started_before_start, 2, False) == [[[], [], []]] * 2
    first, second = run_ranks(_started_before_start, 2, True)
    assert first[1] == [0, 1] and second[1] == [], "inside the backward, the ranks cannot know of each other in time"


def test_compression_keeps_the_residual_of_a_parameter_without_a_gradient() -> None:
    parameters = {name: nn.Parameter(torch.zeros(3)) for name in "ab"}
    reducer = _reducer(parameters, compress="bf16")
    _backward(parameters, ["a", "b"], 0.123)
    reducer.start().wait()
    residual = reducer.residual()["b"]
    assert residual.any()
    _backward(parameters, ["a"], 0.123)
    assert list(reducer.start().wait()) == ["a"] and torch.equal(reducer.residual()["b"], residual)


def _shared_residual() -> tuple[Tensor, Tensor, Tensor]:
    parameters = {"a": nn.Parameter(torch.zeros(50))}
    reducer = _reducer(parameters, compress="bf16")
    _backward(parameters, ["a"], 0.123 + dist.get_rank())
    reducer.start().wait()
    mine = next(iter(reducer._residuals.values())).clone()
    total = reducer.residual()["a"]
    other = DelayedAllReduce({"a": nn.Parameter(torch.zeros(50))}, compress="bf16")
    other.load_residual({"a": total})
    assert torch.equal(other._residuals[0], reducer._residuals[0]), (
        "a rank that saves keeps the share of one that loads"
    )
    return mine, total, reducer._residuals[0]


def test_the_residual_is_shared_equally() -> None:
    (first, total, share), (second, *_) = run_ranks(_shared_residual, 2)
    assert torch.equal(first + second, total) and torch.equal(share, total / 2)


def test_a_parameter_has_one_all_reduce_until_it_is_closed() -> None:
    parameters = _parameters()
    first = _reducer(parameters)
    with pytest.raises(ValueError, match="both: another optimizer takes its gradients"):
        _reducer({"new": nn.Parameter(torch.ones(1)), "both": parameters["both"]})
    first.close()
    second = _reducer(parameters)
    _backward(parameters, ["both"], 1.0)
    assert list(second.start().wait()) == ["both"]


def test_parameters_are_freed_with_their_model() -> None:
    parameter = nn.Parameter(torch.ones(3))
    reducer = _reducer({"p": parameter})
    gone = weakref.ref(parameter)
    del reducer
    gc.collect()
    again = _reducer({"p": parameter})  # nobody has it any more
    parameter.sum().backward()
    assert list(again.start().wait()) == ["p"]
    del parameter, again
    gc.collect()
    assert gone() is None


def test_a_backward_without_a_step_can_be_forgotten() -> None:
    parameters = _parameters()
    reducer = _reducer(parameters)
    _backward(parameters, list(SHAPES), 1.0)
    reducer.abandon()
    _backward(parameters, ["both"], 5.0)
    assert reducer.start().wait()["both"].flatten().tolist() == [5, 6, 7, 8, 9, 10]
    assert reducer.nbytes == sum(p.nbytes for p in parameters.values())
