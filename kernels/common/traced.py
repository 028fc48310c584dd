"""Lets torch.fx trace a call of an operator: in a larger model, under a TorchRec pipeline, in an export."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")
R = TypeVar("R")


def traceable(operator: Callable[P, R]) -> Callable[P, R]:
    """The operator with the override protocol of torch's own functions (`__torch_function__`).

    A class that overrides functions, such as the proxies of torch.fx, handles a call with its objects as arguments. For
    torch.fx the call is one node; beside a proxy there may be dataclasses with proxies as fields.
    """

    @functools.wraps(operator)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given: tuple[Any, ...] = (*args, *kwargs.values())
        if has_torch_function(given):
            return handle_torch_function(call, given, *args, **kwargs)
        return operator(*args, **kwargs)

    return call
