"""Custom operators without their cost where nothing needs them.

An operator of `torch.library` is what torch.compile, export, fake tensors and other modes see. In plain eager mode its
wrappers cost the host more than the launch: the same formula runs as a torch.autograd.Function, or directly.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad

_PLAIN = (Tensor, nn.Parameter)


def is_eager(*tensors: Tensor, modes: bool = False) -> bool:
    """Whether nothing but autograd looks at a call with these tensors: no compiler, no mode, no transform, no tensors
    of other classes or without values. With `modes`, modes may look."""
    return (
        not torch.compiler.is_compiling()
        and (modes or torch._C._len_torch_dispatch_stack() == 0)
        and torch._C._functorch.peek_interpreter_stack() is None  # pyright: ignore[reportAttributeAccessIssue]
        and not torch._C._get_tracing_state()
        and forward_ad._current_level < 0
        and all(type(x) in _PLAIN and x.device.type != "meta" for x in tensors)
    )


def is_eager_backward(grad: Tensor) -> bool:
    """As `is_eager`, within a backward. One that makes a graph of itself gets the operator, which has no formula for
    its own gradient and says so, where a direct call would be a constant to it."""
    return is_eager(grad) and not torch.is_grad_enabled()


def function_of(
    run: Callable[..., Any], keep: Callable[[Any, tuple[Any, ...], Any], None], backward: Callable[..., Any]
) -> Callable[..., Any]:
    """`run` with the formula that `torch.library.register_autograd` would take: `keep(ctx, inputs, output)` and
    `backward(ctx, *grads)`. Tensors inside of lists get no gradient."""

    class Eager(torch.autograd.Function):
        # With a `setup_context` torch would bind the arguments to a signature in every call.
        @staticmethod
        def forward(ctx: Any, *inputs: Any) -> Any:
            output = run(*inputs)
            keep(ctx, inputs, output)
            return output

        @staticmethod
        def backward(ctx: Any, *grads: Any) -> Any:
            return backward(ctx, *grads)

    return Eager.apply
