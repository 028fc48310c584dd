"""What stands in `p.grad` between `backward()` and `step()` while the gradient itself is on its way around the ranks.

Tools look there: clipping, logging, noise. The first use of any stand-in brings in the mean gradients that the next `step()`
applies and puts them into `p.grad`; whatever is done to them then is what `step()` applies. Who does not look pays nothing.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

Bring = WeakMethod[Callable[[str], Tensor]]
SECOND_GRADIENT = (
    "got a second gradient since the last step(): its first one is on its way already. Expected one backward per step(), with "
    "one gradient for every parameter. To add up several backwards, set accumulation_steps and call step() after each. For a "
    "layer that is used twice under torch.utils.checkpoint, set use_reentrant=False: a reentrant checkpoint is a backward of "
    "its own"
)


class Arriving(Tensor):
    """Has shape, dtype and device of a parameter and no memory; every use is that of the gradient which `bring()(name)` is."""

    _bring: Bring
    _name: str

    @classmethod
    def of(cls, name: str, parameter: nn.Parameter, bring: Bring) -> "Arriving":
        made = Tensor._make_wrapper_subclass(cls, parameter.shape, dtype=parameter.dtype, device=parameter.device)  # pyright: ignore[reportAttributeAccessIssue]
        made._name, made._bring = name, bring
        return made

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        return func(*tree_map_only(Arriving, _arrived, args), **tree_map_only(Arriving, _arrived, kwargs or {}))

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        # Most uses have been answered above. Inside a backward it is autograd that comes here, to add another gradient.
        if torch._C._current_graph_task_id() == -1:
            return func(*tree_map_only(Arriving, _arrived, args), **tree_map_only(Arriving, _arrived, kwargs or {}))
        name = next(value._name for value in args if isinstance(value, Arriving))
        raise RuntimeError(f"{name} {SECOND_GRADIENT}")


def _arrived(stand_in: Arriving) -> Tensor:
    bring = stand_in._bring()
    if bring is None:
        raise RuntimeError(f"{stand_in._name}: the optimizer that took this gradient is gone")
    return bring(stand_in._name)
