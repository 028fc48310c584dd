"""Lets an operator be called where torch.fx traces: in a model of somebody else, under a TorchRec pipeline, in an export."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torch.overrides import handle_torch_function, has_torch_function

P = ParamSpec("P")
R = TypeVar("R")


def traceable(operator: Callable[P, R]) -> Callable[P, R]:
    """The operator as torch's own functions are: a call with proxies, or with tensors of a class that overrides functions, is
    theirs to handle. For torch.fx it is one node, which calls the operator."""

    @functools.wraps(operator)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        given: tuple[Any, ...] = (*args, *kwargs.values())
        if has_torch_function(given):
            return handle_torch_function(call, given, *args, **kwargs)
        return operator(*args, **kwargs)

    return call
