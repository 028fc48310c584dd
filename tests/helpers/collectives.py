"""The order in which a rank issues its collectives, over all groups."""

from typing import Any

import torch.distributed as dist
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# Ranks send and receive different amounts.
UNEVEN = ("alltoall", "gather", "scatter")


class Collectives(TorchDispatchMode):
    """Inside `with`, writes down every collective of this thread, also those that the backward and DDP issue in C++:
    all of them are operators of c10d.

    Attributes:
        order: one entry each: the group by order of first use, the operator, and the bytes that are alike on all ranks.
            Entries of the same step compare equal on all ranks that issue the same.
    """

    def __init__(self) -> None:
        super().__init__()
        self.order: list[str] = []
        self._groups: list[str] = []

    def take(self) -> list[str]:
        """The entries since the last call."""
        taken, self.order = self.order, []
        return taken

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "c10d":
            name = func._schema.name.removeprefix("c10d::").strip("_")
            nbytes = sum(x.nbytes for x in tree_leaves(args) if isinstance(x, Tensor))
            size = "" if name.startswith(UNEVEN) else f" {nbytes} B"
            self.order.append(f"{self._group_of(args)}: {name}{size}")
        return func(*args, **(kwargs or {}))

    def _group_of(self, args: Any) -> str:
        (group,) = (found for x in args if (found := _unboxed(x)) is not None)
        if group.group_name not in self._groups:
            self._groups.append(group.group_name)
        return f"group {self._groups.index(group.group_name)}"


def _unboxed(value: Any) -> dist.ProcessGroup | None:
    try:
        return dist.ProcessGroup.unbox(value)
    except (TypeError, RuntimeError):
        return None
