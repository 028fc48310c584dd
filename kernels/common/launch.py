"""A launch of a Triton kernel without most of what Triton does before it.

`kernel[grid](...)` works out anew which kernel its arguments need: their types, which numbers are 1 or divisible by 16,
which pointers are aligned. That takes Python longer than a small kernel runs. Here a key of the same facts finds the
kernel that Triton took for such arguments before, and gives it to Triton's own launcher.
"""

from typing import Any

from torch import Tensor
from triton import knobs
from triton.runtime import driver
from triton.runtime.jit import JITFunction

_RUN = JITFunction.run
_known: dict[tuple[Any, ...], Any] = {}
# Id of a kernel -> the kernel, which keeps its id as long as it stands here, and the arguments that are no constants.
_numbers: dict[int, tuple[Any, frozenset[str]]] = {}


def cdiv(a: int, b: int) -> int:
    """a / b rounded up. Triton's own is a function of kernels, whose call on the host takes microseconds."""
    return -(-a // b)


def launch(kernel: Any, grid: tuple[int, ...], /, **arguments: Any) -> None:
    """`kernel[grid](**arguments)`: all of its arguments by name, and options such as `num_warps`.

    The first launch of its kind is Triton's, and so is every one that something else looks at: hooks of a profiler,
    Triton's interpreter, a mode that only compiles.
    """
    if not isinstance(kernel, JITFunction) or JITFunction.run is not _RUN or _is_watched(kernel):
        kernel[grid](**arguments)
        return
    active: Any = driver.active
    device = active.get_current_device()
    key = (id(kernel), device, *arguments, *_facts(kernel, arguments))
    compiled = _known.get(key)
    if compiled is None:
        compiled = kernel[grid](**arguments)
        if active.get_current_target().backend == "cuda":  # others look at more, such as the size of a tensor
            _known[key] = compiled
        return
    stream = active.get_current_stream(device)
    handles = compiled.function, compiled.packed_metadata
    unwatched = None, None, None  # metadata for hooks, and the hooks
    compiled.run(*(*grid, 1, 1)[:3], stream, *handles, *unwatched, *[arguments[name] for name in kernel.arg_names])


def _facts(kernel: "JITFunction[Any]", arguments: dict[str, Any]) -> list[Any]:
    """What Triton compiles another kernel for, or more: constants and options as they are."""
    if id(kernel) not in _numbers:
        _numbers[id(kernel)] = kernel, frozenset(of.name for of in kernel.params if not of.is_constexpr)
    _, numbers = _numbers[id(kernel)]
    facts: list[Any] = []
    for name, value in arguments.items():
        if isinstance(value, Tensor):
            facts.append((value.dtype, value.data_ptr() % 16))
        elif type(value) is int and name in numbers:
            facts.append((value == 1, value % 16 == 0, -(2**31) <= value < 2**31, value >= 2**63))
        else:
            facts.append(value)
    return facts


def _is_watched(kernel: "JITFunction[Any]") -> bool:
    runtime = knobs.runtime
    stages = getattr(runtime, "add_stages_inspection_hook", None)  # from Triton 3.7 on
    hooks: tuple[Any, ...] = runtime.launch_enter_hook, runtime.launch_exit_hook, stages
    return bool(kernel.pre_run_hooks) or any(getattr(hook, "calls", hook) for hook in hooks)
