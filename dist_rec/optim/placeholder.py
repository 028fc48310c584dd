"""A tensor without memory that replaces `p.grad` between `backward()` and `step()`, while the gradient is being
reduced.

Tools of a job read `p.grad` there: clipping, logging, noise. The first use of any placeholder waits for the mean
gradients that the next `step()` applies and puts them into `p.grad`; `step()` applies whatever `p.grad` holds then. A
job that does not read `p.grad` never waits.
"""

from collections.abc import Callable
from typing import Any
from weakref import WeakMethod

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

Resolve = WeakMethod[Callable[[str], Tensor]]
SECOND_GRADIENT = (
    "got a second gradient since the last step(), but its first one is already being reduced. Expected one backward "
    "per step(), with one gradient for every parameter. To add up several backwards, set accumulation_steps and call "
    "step() after each. For a layer that is used twice under torch.utils.checkpoint, set use_reentrant=False: a "
    "reentrant checkpoint is a backward of its own"
)


class Placeholder(Tensor):
    """Has the shape, dtype and device of a parameter. Every operation runs on the tensor that `resolve()(name)`
    returns.

    Raises (when used):
        RuntimeError: if the owner of `resolve` is gone, or if autograd adds a second gradient to the placeholder.
    """

    _resolve: Resolve
    _name: str

    @classmethod
    def of(cls, name: str, parameter: nn.Parameter, resolve: Resolve) -> "Placeholder":
        made = Tensor._make_wrapper_subclass(cls, parameter.shape, dtype=parameter.dtype, device=parameter.device)  # pyright: ignore[reportAttributeAccessIssue]
        made._name, made._resolve = name, resolve
        return made

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return func(*tree_map_only(Placeholder, _resolved, args), **tree_map_only(Placeholder, _resolved, kwargs or {}))

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # __torch_function__ handles most uses. Inside a backward the caller is autograd, which adds another gradient.
        if torch._C._current_graph_task_id() == -1:
            return func(
                *tree_map_only(Placeholder, _resolved, args), **tree_map_only(Placeholder, _resolved, kwargs or {})
            )
        name = next(value._name for value in args if isinstance(value, Placeholder))
        raise RuntimeError(f"{name} {SECOND_GRADIENT}")


def _resolved(placeholder: Placeholder) -> Tensor:
    resolve = placeholder._resolve()
    if resolve is None:
        raise RuntimeError(f"{placeholder._name}: the optimizer that took this gradient is gone")
    return resolve(placeholder._name)
