"""The all-reduce of one step; steps that overlap are in test_delayed.py."""

import pytest
import torch
from torch import nn

from dist_rec.optim.buckets import Bucket
from dist_rec.optim.pending_reduce import DelayedGradient, PendingReduce, is_finite, total_norm
from dist_rec.optim.process_groups import host_group_of, own_group
from tests.helpers.ranks import run_ranks


def _started(present: dict[str, bool]) -> PendingReduce:
    """One bucket with the gradients a = [3, 4] and b = [0], started by hand."""
    bucket = Bucket({"b": nn.Parameter(torch.zeros(1)), "a": nn.Parameter(torch.zeros(2))})
    pending = PendingReduce([bucket], [])
    pending.buffers[0] = bucket.take().copy_(torch.tensor([0.0, 3.0, 4.0]))
    pending.present = present
    return pending


def test_means_in_the_order_of_the_parameters_without_those_that_no_rank_has() -> None:
    pending = _started({"b": False, "a": True})
    pending.launch(["a", "b", "of a later bucket"], None, None)
    assert {name: mean.tolist() for name, mean in pending.wait().items()} == {"a": [3.0, 4.0]}
    assert list(pending.names) == ["a", "b"]
    assert (
        pending.norm() == 5.0
        and pending.is_finite(pending.norm())
        and not pending.is_finite(torch.tensor(float("nan")))
    )


def test_released_buffers_are_used_again() -> None:
    pending = _started({"a": True, "b": True})
    pending.release()
    assert pending.buckets[0].take() is pending.buffers[0]


def _flags(field: str) -> str:
    group = host_group_of(own_group(None))
    pending = _started({"a": True, "b": True})
    setattr(pending, field, torch.distributed.get_rank() == 1)
    pending.launch(["a", "b"], None, group)
    with pytest.raises(RuntimeError) as caught:
        pending.wait()
    return str(caught.value)


@pytest.mark.parametrize(("field", "message"), [("dropped", "zero_grad() between"), ("changed", "p.grad was changed")])
def test_what_only_some_ranks_did_is_an_error_on_all(field: str, message: str) -> None:
    assert all(message in said and "on 1 of 2 ranks" in said for said in run_ranks(_flags, 2, field))


def test_a_loaded_gradient_has_no_all_reduce() -> None:
    assert DelayedGradient(None, {}).reduce is None and DelayedGradient(_started({})).gradients is None


def test_total_norm_counts_what_is_missing_as_zero() -> None:
    gradients = {"b": torch.tensor([3.0]), "a": torch.tensor([4.0])}
    assert total_norm(["a", "missing", "b"], gradients) == 5.0


@pytest.mark.parametrize("value", [5.0, float("inf"), float("nan")])
def test_on_a_cpu_the_host_says_whether_a_norm_is_finite(value: float) -> None:
    pending = _started({"a": True, "b": True})
    pending.launch(["a", "b"], None, None)
    pending.wait()
    for reduce in (None, pending):
        for read in (False, True):
            assert is_finite(torch.tensor(value), reduce, read=read) is (value == 5.0)


def test_on_a_device_only_who_has_to_reads_it() -> None:
    """Meta tensors stand in for a GPU's: they hold nothing that could be read."""
    norm = torch.zeros((), device="meta")
    flag = is_finite(norm, None, read=False)
    assert isinstance(flag, torch.Tensor) and flag.dtype == torch.bool and flag.shape == () and flag.is_meta
    with pytest.raises(RuntimeError, match="meta"):
        is_finite(norm, None, read=True)
    pending = _started({"a": True, "b": True})
    pending.is_finite = lambda norm: False  # pyright: ignore[reportAttributeAccessIssue] - what its event says
    assert is_finite(norm, pending, read=True) is False
