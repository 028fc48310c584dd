"""Process groups of the dense all-reduce, and the collectives over them."""

from collections.abc import Mapping

import torch.distributed as dist
from torch import Tensor


def own_group(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """`group` if given, else a new group of all ranks with the default backend; None if torch.distributed is not in
    use."""
    if group is not None or not dist.is_initialized():
        return group
    made = dist.new_group(backend=dist.get_backend())
    assert isinstance(made, dist.ProcessGroup), "every rank is a member"
    return made


def host_group_of(group: dist.ProcessGroup | None) -> dist.ProcessGroup | None:
    """A new gloo group with the ranks of `group`, for flags in host memory. Every rank of `group` must call this."""
    if group is None:
        return None
    made = dist.new_group(dist.get_process_group_ranks(group), backend="gloo", use_local_synchronization=True)
    assert isinstance(made, dist.ProcessGroup), "this rank belongs to the group"
    return made


def start_all_reduce(tensor: Tensor, group: dist.ProcessGroup | None) -> dist.Work:
    """Starts to sum `tensor` in place over the ranks of `group`; the returned work is waited for by the caller."""
    work = dist.all_reduce(tensor, group=group, async_op=True)
    assert work is not None, "this rank belongs to the group"
    return work


def broadcast(tensors: Mapping[str, Tensor], group: dist.ProcessGroup | None) -> None:
    """Copies rank 0's values to all ranks, as DDP does. Comm: one broadcast per tensor."""
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        for tensor in tensors.values():
            dist.broadcast(tensor.data, group=group, group_src=0)
