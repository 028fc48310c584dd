import torch
import torch.distributed as dist
from torch import nn

from dist_rec.optim.process_groups import broadcast, host_group_of, own_group, start_all_reduce
from tests.helpers.ranks import run_ranks


def _groups() -> tuple[bool, bool, str, float, float]:
    mine = own_group(None)
    assert mine is not None
    host = host_group_of(mine)
    parameter = nn.Parameter(torch.full((2,), float(dist.get_rank() + 7)))
    broadcast({"p": parameter}, mine)
    total = torch.tensor(1.0 + dist.get_rank())
    start_all_reduce(total, mine).wait()
    return (
        mine is not dist.group.WORLD,
        own_group(mine) is mine,
        dist.get_backend(host),
        parameter.sum().item(),
        total.item(),
    )


def test_a_new_group_its_sums_and_rank_0s_values() -> None:
    assert run_ranks(_groups, 2) == [(True, True, "gloo", 14.0, 3.0)] * 2


def test_without_ranks_there_are_no_groups() -> None:
    parameter = nn.Parameter(torch.ones(2))
    broadcast({"p": parameter}, None)
    assert own_group(None) is None and host_group_of(None) is None and parameter.sum() == 2
