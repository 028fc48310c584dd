"""The all-reduce by itself: means by name, whatever had a gradient where, and nothing mixed up between steps."""

import gc
import weakref
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from dist_rec.optim.delayed import DelayedAllReduce, total_norm
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
        "buckets": reducer.num_buckets,
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


def test_a_bucket_leaves_inside_the_backward_and_in_order() -> None:
    parameters = {name: nn.Parameter(torch.ones(4)) for name in ("early", "late")}
    reducer = _reducer(parameters, bucket_cap_mb=1e-6)
    seen: list[list[int]] = []

    def look(_: Tensor) -> None:
        flight = reducer._flight
        seen.append([len(flight.buffers) if flight is not None else 0])

    parameters["early"].register_hook(look)  # runs when the gradient of `early` is about to be added: `late` is done by then
    hidden = parameters["early"] * 2.0
    (hidden * parameters["late"]).sum().backward()
    assert seen == [[1]], "`late`, the last parameter, left before `early` had its gradient"
    assert len(reducer.start().buffers) == 2


def test_one_process_without_a_group() -> None:
    parameters = _parameters()
    reducer = _reducer(parameters)
    _backward(parameters, ["both"], 1.0)
    flight = reducer.start()
    means = flight.wait()
    assert list(means) == ["both"] and means["both"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert flight.norm() == pytest.approx(91.0**0.5) and flight.is_finite(flight.norm())
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
    flight = None
    for step in range(6):
        _backward(parameters, ["a", "b"], step)
        started = reducer.start()
        if flight is not None:
            flight.wait()
            flight.release()
        flight = started
    assert reducer.nbytes == 2 * 2 * 100 * 4


def test_parameters_may_join_while_gradients_are_on_their_way() -> None:
    parameters = _parameters()
    reducer = _reducer(parameters)
    _backward(parameters, ["both"], 1.0)
    flight = reducer.start()
    new = {"new": nn.Parameter(torch.ones(3))}
    reducer.add(new)
    _backward(parameters | new, ["both", "new"], 5.0)
    assert list(flight.wait()) == ["both"]
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
    """Sums of what came back, of the exact means, and what is still withheld."""
    parameters = {"a": nn.Parameter(torch.zeros(50)), "wide": nn.Parameter(torch.zeros(2, dtype=torch.float64))}
    reducer = _reducer(parameters, compress="bf16")
    got, exact = torch.zeros(50, dtype=torch.float64), torch.zeros(50, dtype=torch.float64)
    for step in range(steps):
        shift = 0.123 + step + 0.01 * dist.get_rank()
        _backward(parameters, ["a", "wide"], shift)
        flight = reducer.start()
        means = flight.wait()
        got += means["a"].double()
        exact += torch.arange(50) + 0.123 + step + 0.005
        assert means["wide"].dtype == torch.float64
        assert (means["wide"] - torch.arange(2) - 0.123 - step - 0.005).abs().max() < 1e-12, "only fp32 is compressed"
        flight.release()
    return got, exact, reducer.withheld()["a"].double()


def test_compression_gives_back_what_rounding_took() -> None:
    """What came back and what is withheld add up, but for the rounding of bf16 sums over the ranks."""
    for got, exact, withheld in run_ranks(_compressed, 2, 40):
        last_roundings = 40 * 50 * 2**-8  # of the sum of two bf16 numbers, which no rank sees
        assert (got + withheld - exact).abs().max() < last_roundings
        assert withheld.abs().max() > 0
        plain = exact.abs().max() * 2**-8
        assert (got - exact).abs().max() < plain, "without the feedback the error grows with every step"


def test_an_error_that_is_not_finite_is_forgotten() -> None:
    parameters = {"a": nn.Parameter(torch.zeros(3))}
    reducer = _reducer(parameters, compress="bf16")
    for shift in (float("inf"), float("nan"), 1.0):
        _backward(parameters, ["a"], shift)
        flight = reducer.start()
        means = flight.wait()
        assert flight.is_finite(flight.norm()) == (shift == 1.0)
    assert means["a"].tolist() == [1.0, 2.0, 3.0]


def _order_of_leaving() -> list[list[int]]:
    """What has left by the end of the backward, in four steps; one parameter in the middle has a gradient in the last only."""
    parameters = {name: nn.Parameter(torch.ones(4)) for name in ("a", "idle", "b")}
    reducer, left = _reducer(parameters, bucket_cap_mb=1e-6), []
    for step in range(4):
        names = ["a", "b"] if step < 3 or dist.get_rank() else ["a", "idle", "b"]
        _backward(parameters, names, 1.0)
        assert reducer._flight is not None
        left.append(list(reducer._flight.buffers))
        flight = reducer.start()
        assert list(reducer.land(flight)) == (["a", "b"] if step < 3 else ["a", "idle", "b"])
        flight.release()
    return left


def test_a_parameter_that_had_no_gradient_does_not_hold_up_the_others() -> None:
    first, second = run_ranks(_order_of_leaving, 2)
    assert second == [[0], [0, 2], [0, 2], [0, 2]], "bucket 1 is the idle one's"
    assert first == [[0], [0, 2], [0, 2], [0, 2, 1]]


def test_compression_keeps_what_it_owes_to_a_parameter_without_a_gradient() -> None:
    parameters = {name: nn.Parameter(torch.zeros(3)) for name in "ab"}
    reducer = _reducer(parameters, compress="bf16")
    _backward(parameters, ["a", "b"], 0.123)
    reducer.start().wait()
    owed = reducer.withheld()["b"]
    assert owed.any()
    _backward(parameters, ["a"], 0.123)
    assert list(reducer.start().wait()) == ["a"] and torch.equal(reducer.withheld()["b"], owed)


def _shared_out() -> tuple[Tensor, Tensor, Tensor]:
    parameters = {"a": nn.Parameter(torch.zeros(50))}
    reducer = _reducer(parameters, compress="bf16")
    _backward(parameters, ["a"], 0.123 + dist.get_rank())
    reducer.start().wait()
    mine = next(iter(reducer._errors.values())).clone()
    total = reducer.withheld()["a"]
    other = DelayedAllReduce({"a": nn.Parameter(torch.zeros(50))}, compress="bf16")
    other.withhold({"a": total})
    assert torch.equal(other._errors[0], reducer._errors[0]), "those that go on and those that begin hold the same"
    return mine, total, reducer._errors[0]


def test_what_is_withheld_is_shared_out_equally() -> None:
    (first, total, share), (second, *_) = run_ranks(_shared_out, 2)
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


def test_total_norm_counts_what_is_missing_as_zero() -> None:
    gradients = {"b": torch.tensor([3.0]), "a": torch.tensor([4.0])}
    assert total_norm(["a", "missing", "b"], gradients) == 5.0
