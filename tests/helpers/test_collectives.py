import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from tests.helpers.collectives import Collectives
from tests.helpers.ranks import run_ranks


def _issue() -> tuple[list[str], list[str]]:
    other, rank = dist.new_group(), dist.get_rank()
    net = DistributedDataParallel(nn.Linear(2, 1))
    with Collectives() as seen:
        work = dist.all_reduce(torch.ones(3), group=other, async_op=True)
        assert work is not None
        work.wait()
        sizes = [1, 2] if rank else [2, 1]
        dist.all_to_all_single(torch.empty(3), torch.ones(3), sizes, sizes)
        first = seen.take()
        net(torch.ones(1, 2)).sum().backward()
        dist.broadcast(torch.ones(2), 0)
    return first, seen.take()


def test_all_groups_and_the_backward_in_one_order() -> None:
    first, second = run_ranks(_issue, 2)
    assert first == second
    assert first[0] == ["group 0: allreduce 12 B", "group 1: alltoall_base"]
    assert first[1] == ["group 1: allreduce 12 B", "group 1: broadcast 8 B"], "DDP's buckets, issued by its own code"
