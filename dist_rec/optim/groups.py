"""Process groups of the dense all-reduce, and equal values to begin with."""

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor


def own_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """`group`, or a new one of all ranks with the default backend; None without ranks."""
    if group is not None or not dist.is_initialized():
        return group
    made = dist.new_group(backend=dist.get_backend())
    assert isinstance(made, dist.ProcessGroup), "every rank is a member"
    return made


def host_group_of(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """A gloo group with the ranks of `group`, for flags between the hosts. Made by all ranks of it together."""
    if group is None:
        return None
    made = dist.new_group(dist.get_process_group_ranks(group), backend="gloo", use_local_synchronization=True)
    assert isinstance(made, dist.ProcessGroup), "this rank belongs to the group"
    return made


def broadcast(tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Makes all ranks start from rank 0's values, as DDP does. Comm: one broadcast per tensor."""
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        for tensor in tensors.values():
            dist.broadcast(tensor.data, group=group, group_src=0)
