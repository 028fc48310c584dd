"""What an operator launches, moves and computes, counted while it runs; on tensors without values as well.

Counted are operators that do something, not views and not allocations. Bytes are those of inputs and outputs, each
once; of a tensor that is read by an index, only the rows that are picked. FLOPs of products of matrices and of torch's
attention are torch's own count (`torch.utils.flop_counter`); those of the fused attention are 4 per query, visible key
and column forward, 10 backward, for requests that are all of mean size.

Legend: q query rows, n key rows, W width of all heads.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from dist_rec.cost.machine import Kind
from dist_rec.data import unique_tokens
from dist_rec.kernels import cross_causal_attention, gather_pool, jagged_range, prefix_sum, slot_attention, unique_ids

KERNELS = (cross_causal_attention, gather_pool, jagged_range, prefix_sum, slot_attention, unique_ids)
# Allocate or describe, and move nothing.
FREE = {
    *("device", "detach", "alias", "lift_fresh", "_unsafe_view"),
    *("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"),
}
ATTENTION = ("scaled_dot_product", "flash_attention", "cross_causal_attention", "slot_attention")
GATHERS = (
    *("index", "gather", "scatter", "embedding", "take", "expand_add", "pool", "repeat_interleave", "permute"),
    *("bucketize", "jagged_range", "prefix_sum", "unpack"),
)
NORMS = ("layer_norm", "softmax")
SORTS = ("sort", "unique", "topk", "radix", "segments")


@dataclass(frozen=True)
class Operator:
    """One call. `dim`: the smallest of a product of matrices, or the size of a head; `half`: some of its tensors have
    16-bit floats."""

    stage: str
    name: str
    kind: Kind
    nbytes: int
    flops: int
    dim: int
    half: bool


class Ledger(TorchDispatchMode):
    """Lists the operators that run inside it, each with the stage it runs in.

    `stage` is what the caller sets, or the innermost `inside` a module; operators of a backward are of stage
    "backward" whatever it is.
    """

    def __init__(self, stage: str = "forward") -> None:
        super().__init__()
        self.stage = stage
        self.operators: list[Operator] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.split("::")[1]
        if name in FREE or _is_view(func):
            return out
        tensors = list({id(x): x for x in tree_leaves((args, kwargs, out)) if isinstance(x, Tensor)}.values())
        if not tensors:  # marks of the profiler, types
            return out
        given = {id(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        kind = _kind(func, name) or _kind_of_memory(tensors, given)
        stage = "backward" if torch._C._current_graph_task_id() != -1 else self.stage
        self.operators.append(
            Operator(
                stage=stage,
                name=name,
                kind=kind,
                nbytes=_nbytes(kind, tensors, given),
                flops=_flops(func, name, args, kwargs or {}, out),
                dim=_dim(kind, tensors),
                half=any(x.dtype in (torch.bfloat16, torch.float16) for x in tensors),
            )
        )
        return out

    def hear(self, name: str, tensors: Sequence[Tensor], flops: int) -> None:
        """Of a C++ kernel, which is no operator of torch: what it reads, and last what it writes."""
        kind: Kind = "attention" if "attention" in name else "stream" if "gelu" in name else "gather"
        given = {id(x) for x in tensors[:-1]}
        stage = "backward" if torch._C._current_graph_task_id() != -1 else self.stage
        nbytes, dim = _nbytes(kind, [*tensors], given), _dim(kind, [*tensors])
        self.operators.append(Operator(stage, name, kind, nbytes, flops, dim, False))

    @contextmanager
    def inside(self, modules: dict[nn.Module, str]) -> Iterator[None]:
        """Within, the forward of each module is of the stage given, and of the stage around it after that."""
        around: list[str] = []

        def enter(stage: str, *_: Any) -> None:
            around.append(self.stage)
            self.stage = stage

        def leave(*_: Any) -> None:
            self.stage = around.pop()

        hooks = [
            hook
            for module, stage in modules.items()
            for hook in (
                module.register_forward_pre_hook(partial(enter, stage)),
                module.register_forward_hook(leave),
            )
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _is_view(func: Any) -> bool:
    return any(of.alias_info is not None and not of.alias_info.is_write for of in func._schema.returns)


def _kind(func: Any, name: str) -> Kind | None:
    if any(part in name for part in ATTENTION):
        return "attention"
    if func._overloadpacket in flop_registry:
        return "matmul"
    if any(part in name for part in NORMS):
        return "norm"
    if any(part in name for part in SORTS):
        return "sort"
    if any(part in name for part in GATHERS):
        return "gather"
    return None


def _kind_of_memory(tensors: list[Tensor], given: set[int]) -> Kind:
    """Most of what it touches was there before, or not."""
    new = sum(touched(x) for x in tensors if id(x) not in given)
    return "stream" if 4 * new >= sum(map(touched, tensors)) else "inplace"


def touched(x: Tensor) -> int:
    """Bytes of its elements; those that an expanded dim repeats count once."""
    sizes = [size for size, stride in zip(x.shape, x.stride(), strict=True) if stride != 0]
    return int(np.prod(sizes, dtype=np.int64)) * x.element_size()


def _nbytes(kind: Kind, tensors: list[Tensor], given: set[int]) -> int:
    """`given`: ids of the tensors that were there before."""
    if kind != "gather":
        return sum(touched(x) for x in tensors)
    new = [x for x in tensors if id(x) not in given]
    # An index may be bit-packed, with fewer words than places: there are as many places as new rows, then.
    picked = max([x.numel() for x in tensors if not x.is_floating_point()] + [len(x) for x in new if x.ndim], default=0)
    # A table may be flat, as FBGEMM's weights are: its rows are then as wide as those of the others.
    widest = max((x.shape[1:].numel() for x in tensors if x.ndim > 1), default=1)
    total = sum(touched(x) for x in new)
    for x in tensors:
        if id(x) in given:
            row = x.shape[1:].numel() if x.ndim > 1 else widest
            total += min(touched(x), picked * row * x.element_size()) if x.is_floating_point() else touched(x)
    return total


def _dim(kind: Kind, tensors: list[Tensor]) -> int:
    if kind == "attention":
        return max((x.shape[-1] for x in tensors if x.ndim >= 3 and x.is_floating_point()), default=1)
    return min((size for x in tensors if x.ndim >= 2 for size in x.shape[-2:]), default=1) if kind == "matmul" else 0


def _flops(func: Any, name: str, args: Any, kwargs: Any, out: Any) -> int:
    if "cross_causal_attention" in name:
        backward = "backward" in name
        q, k = args[1][:2] if backward else args[:2]
        offsets = args[3][0] if len(args) > 3 else kwargs["layout"][0]
        width = q.shape[1] * q.shape[2]
        return (10 if backward else 4) * len(q) * len(k) // max(len(offsets) - 1, 1) * width
    if "flash_attention_for_cpu" in name:  # not among those that torch has registered
        if "backward" in name:
            return int(sdpa_backward_flop_count(*(x.shape for x in args[:4])))
        return int(sdpa_flop_count(*(x.shape for x in args[:3])))
    counted: Callable[..., int] | None = flop_registry.get(func._overloadpacket)
    return 0 if counted is None else int(counted(*args, **kwargs, out_val=out))


@contextmanager
def kernels_of_a_gpu() -> Iterator[None]:
    """Inside, tensors on the CPU get the kernels of a GPU; for tensors without values, and launches that do nothing."""
    with ExitStack() as restored:
        for kernel in KERNELS:
            if hasattr(kernel, "choose"):
                _replace(restored, kernel, "choose", lambda *_, **__: "triton")
        yield


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """As `kernels_of_a_gpu`, and batches keep their indices bit-packed. What kernels say of the tensors without values
    that they are called with is of no device, and is not logged."""
    log = logging.getLogger("dist_rec.kernels")
    with kernels_of_a_gpu(), ExitStack() as restored:
        restored.callback(log.setLevel, log.level)
        log.setLevel(logging.WARNING)
        _replace(restored, unique_tokens, "unpack_inverse", lambda packed: packed)
        yield


def _replace(restored: ExitStack, module: Any, name: str, value: Any) -> None:
    restored.callback(setattr, module, name, getattr(module, name))
    setattr(module, name, value)
