import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from dist_rec.optim.ddp import outermost_ddps, plain_buffers, silence
from tests.helpers.ranks import run_ranks


def _look() -> tuple[bool, torch.Tensor, str]:
    outer = nn.Sequential(
        DistributedDataParallel(nn.Linear(2, 2)), nn.Sequential(DistributedDataParallel(nn.Linear(2, 2)))
    )
    found = outermost_ddps(outer)
    silence(outer[0])
    outer[0](torch.full((1, 2), 1.0 + torch.distributed.get_rank())).sum().backward()
    assert outer[0].module.weight.grad is not None
    with pytest.raises(ValueError) as caught:
        silence(outer[0])
    return found == [outer[0]], outer[0].module.weight.grad, str(caught.value)


def test_the_outermost_is_found_and_silenced() -> None:
    for rank, (is_outermost, gradient, refusal) in enumerate(run_ranks(_look, 2)):
        assert is_outermost and (gradient == 1.0 + rank).all(), "each rank keeps its own"
        assert "has a communication hook already; expected none" in refusal


def test_buffers_of_sharded_modules_are_left_out() -> None:
    net = nn.ModuleDict({"norm": nn.BatchNorm1d(2), "table": nn.BatchNorm1d(2)})
    net["table"].input_dist = lambda: None  # pyright: ignore[reportAttributeAccessIssue]
    assert set(plain_buffers(net)) == {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"}
