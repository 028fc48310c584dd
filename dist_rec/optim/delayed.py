"""All-reduce of dense gradients that may be waited for later than it was started.

Gradients are kept by parameter name, in one flat buffer per dtype that this class lays out itself, so nothing depends on
the order in which DDP would bucket them.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn


class GradientInFlight:
    """One step's gradients on their way around the ranks of `group`.

    Which parameters have a gradient is told between the hosts, over `host_group` (gloo): read from the device, those flags
    would make every step wait for it.
    """

    def __init__(
        self,
        parameters: Mapping[str, nn.Parameter],
        group: dist.ProcessGroup | None,
        host_group: dist.ProcessGroup | None,
    ) -> None:
        self._world_size = dist.get_world_size(group) if dist.is_initialized() else 1
        self._shapes = {name: p.shape for name, p in parameters.items()}
        self._present = torch.tensor([p.grad is not None for p in parameters.values()], dtype=torch.int32)
        self._buffers: list[tuple[list[str], Tensor]] = []
        for dtype in sorted({p.dtype for p in parameters.values()}, key=str):
            members = {name: p for name, p in parameters.items() if p.dtype == dtype}
            self._buffers.append((list(members), _pack(list(members.values()))))
        self._works: list[dist.Work] = []
        if self._world_size > 1:
            self._reduce(self._present, host_group)
            for _, buffer in self._buffers:
                self._reduce(buffer, group)

    def wait(self) -> dict[str, Tensor]:
        """Mean gradient by parameter name; parameters that had no gradient on any rank are left out."""
        for work in self._works:
            work.wait()
        self._works = []
        present = dict(zip(self._shapes, self._present.tolist(), strict=True))
        means: dict[str, Tensor] = {}
        for names, buffer in self._buffers:
            parts = (buffer / self._world_size).split([self._shapes[name].numel() for name in names])
            means |= {name: part.view(self._shapes[name]) for name, part in zip(names, parts, strict=True) if present[name]}
        return {name: means[name] for name in self._shapes if name in means}

    def _reduce(self, tensor: Tensor, group: dist.ProcessGroup | None) -> None:
        work = dist.all_reduce(tensor, group=group, async_op=True)
        assert work is not None, "this rank belongs to the group"
        self._works.append(work)


def _pack(parameters: list[nn.Parameter]) -> Tensor:
    """Gradients one after the other, zero where there is none."""
    return torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters])


def broadcast_parameters(parameters: Mapping[str, nn.Parameter], group: dist.ProcessGroup | None) -> None:
    """Makes all ranks start from rank 0's values, as DDP does. Comm: one broadcast per parameter."""
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        for parameter in parameters.values():
            dist.broadcast(parameter.data, src=0, group=group)
