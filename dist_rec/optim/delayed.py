"""All-reduce of dense gradients that may be waited for later than it was started.

Gradients are kept by parameter name, in one flat buffer per dtype that this class lays out itself, so nothing depends on
the order in which DDP would bucket them.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GradientInFlight:
    """One step's gradients on their way around the ranks."""

    def __init__(self, parameters: Mapping[str, nn.Parameter], group: dist.ProcessGroup | None) -> None:
        self._world_size = dist.get_world_size(group) if dist.is_initialized() else 1
        self._shapes = {name: p.shape for name, p in parameters.items()}
        self._buffers: dict[torch.dtype, tuple[list[str], Tensor]] = {}
        for dtype in sorted({p.dtype for p in parameters.values()}, key=str):
            names = [name for name, p in parameters.items() if p.dtype == dtype]
            self._buffers[dtype] = names, _pack([parameters[name] for name in names])
        self._works: list[dist.Work] = []
        for _, buffer in self._buffers.values() if self._world_size > 1 else ():
            work = dist.all_reduce(buffer, group=group, async_op=True)
            assert work is not None, "this rank belongs to the group"
            self._works.append(work)

    def wait(self) -> dict[str, Tensor]:
        """Mean gradient by parameter name; parameters that had no gradient on any rank are left out."""
        for work in self._works:
            work.wait()
        self._works = []
        means: dict[str, Tensor] = {}
        for names, buffer in self._buffers.values():
            sizes = [self._shapes[name].numel() for name in names]
            *parts, present = (buffer / self._world_size).split([*sizes, len(names)])
            # Reading the flags waits for the device, which has just been waited for.
            for name, part, had_gradient in zip(names, parts, present.tolist(), strict=True):
                if had_gradient:
                    means[name] = part.view(self._shapes[name])
        return means


def _pack(parameters: list[nn.Parameter]) -> Tensor:
    """Flat gradients, zero where there is none, followed by one flag per parameter that says whether there was one."""
    pieces = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    flags = torch.tensor([p.grad is not None for p in parameters], dtype=pieces[0].dtype, device=pieces[0].device)
    return torch.cat([*pieces, flags])


def broadcast_parameters(parameters: Mapping[str, nn.Parameter], group: dist.ProcessGroup | None) -> None:
    """Makes all ranks start from rank 0's values, as DDP does. Comm: one broadcast per parameter."""
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        for parameter in parameters.values():
            dist.broadcast(parameter.data, src=0, group=group)
