"""The operators of the model in plain PyTorch for one request, for programs that run without this project.

With one request there is nothing jagged: every operator is a few of torch's own, and the rows of a sequence are a
dimension that may have any size. The layers around them are the model's own.

Legend: N rows, L keys, q query rows, H heads, D head size, K slots.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu as torch_gelu
from torch.overrides import TorchFunctionMode

from dist_rec.data.lengths import Lengths
from dist_rec.kernels.cross_causal_attention import Mask, cross_causal_attention
from dist_rec.kernels.gather_pool import expand, expand_add, pool
from dist_rec.kernels.gelu import gelu
from dist_rec.kernels.jagged_range import jagged_range
from dist_rec.kernels.prefix_sum import prefix_sum
from dist_rec.kernels.slot_attention import slot_attention
from dist_rec.kernels.slot_attention.reference import reference_slot_attention

MOST = 2**30


class OneNumber:
    """The `host` of `Lengths` with one length, which may be a symbol: arithmetic as of an array with one entry."""

    def __init__(self, number: Any) -> None:
        self.number = number

    def __len__(self) -> int:
        return 1

    def sum(self) -> Any:
        return self.number

    def max(self, initial: int = 0) -> int:
        """A bound of whatever it is: what depends on it may only be faster or slower."""
        return MOST

    def clip(self, max: int) -> "OneNumber":
        return OneNumber(torch.sym_min(self.number, max))

    def repeat(self, counts: Any) -> "OneNumber":
        """Of one request that is repeated: what is asked of it is never how often."""
        return self

    def __add__(self, other: Any) -> "OneNumber":
        return OneNumber(self.number + (other.number if isinstance(other, OneNumber) else other))

    def __sub__(self, other: Any) -> "OneNumber":
        return self + (0 - other.number if isinstance(other, OneNumber) else -other)

    def __mul__(self, other: Any) -> "OneNumber":
        return OneNumber(self.number * other)

    __rmul__ = __mul__

    def __floordiv__(self, other: Any) -> "OneNumber":
        return OneNumber(self.number // other)


def one_length(number: Any) -> Lengths:
    """`Lengths` of one request with `number` rows, which may be a symbol."""
    # As offsets: of a number that fills a tensor whose sums are taken, Inductor makes a product that it cannot compile.
    offsets = torch.cat([torch.zeros(1, dtype=torch.int32), torch.full((1,), number, dtype=torch.int32)])
    return Lengths(offsets, OneNumber(number), summed=True)  # pyright: ignore[reportArgumentType] - as an array


class OneRequest(TorchFunctionMode):
    """Inside, the operators are those of this module."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        chosen: Any = OPERATORS.get(func, func)
        return chosen(*args, **(kwargs or {}))


def _range(
    first: Tensor | None,
    offsets: Tensor,
    total: Any,
    *,
    step: int = 1,
    most: int | None = None,
    dtype: torch.dtype = torch.int64,
) -> Tensor:
    found = step * torch.arange(total)
    found = found if first is None else found + first.long()
    return (found if most is None else found.clamp(max=most)).to(dtype)


def _expand(rows: Tensor, inverse: Tensor, *, segments: Any = None) -> Tensor:
    return rows.index_select(0, inverse.long())


def _expand_add(rows: Tensor, inverse: Tensor, terms: Sequence[tuple[Tensor, Tensor]], *, gelu: bool = False) -> Tensor:
    found = rows.index_select(0, inverse.long())
    for table, index in terms:
        found = found + table.index_select(0, index.long())
    return torch_gelu(found) if gelu else found


def _pool(rows: Tensor, inverse: Tensor, offsets: Tensor, *, mode: str) -> Tensor:
    """Of one bag, the request's."""
    found = rows.index_select(0, inverse.long()).float().sum(0, keepdim=True)
    count = offsets[-1:].clamp(min=1) if mode == "mean" else 1
    return (found / count).to(rows.dtype)


def _prefix_sum(rows: Tensor, offsets: Tensor) -> Tensor:
    return rows.float().sum(0, keepdim=True)


def _gelu(x: Tensor) -> Tensor:
    return torch_gelu(x)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor | None,
    q_offsets: Tensor,
    kv_offsets: Tensor,
    *,
    mask: Mask,
    max_q_len: Any = None,
) -> Tensor:
    """(q, H, D). A row without a visible key gives zeros."""
    if v is None:
        k, v = k.chunk(2, dim=1)
    keys, count = torch.arange(k.shape[0])[None, :], q.shape[0]
    rows = torch.arange(count) + (k.shape[0] - count) if mask.q_positions is None else mask.q_positions.long()
    rows = rows[:, None]
    visible = keys <= rows if mask.causal else torch.ones_like(keys <= rows)
    if mask.causal and mask.num_candidates is not None:
        events = k.shape[0] - mask.num_candidates.long() * mask.group_size
        own = (rows - events).div(mask.group_size, rounding_mode="floor")
        of_group = (keys - events).div(mask.group_size, rounding_mode="floor")
        visible = visible & ((keys < events) | (own == of_group))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    # A key before all others that every row sees, with the value zero: softmax of nothing would not be a number.
    nothing = visible.any(1)
    scores = scores.masked_fill(~visible, -torch.inf).masked_fill(~nothing[None, :, None], 0.0)
    weights = scores.softmax(-1).masked_fill(~visible, 0.0)
    return torch.einsum("hqk,khd->qhd", weights, v)


OPERATORS: dict[Callable[..., Any], Callable[..., Any]] = {
    jagged_range: _range,
    expand: _expand,
    expand_add: _expand_add,
    pool: _pool,
    prefix_sum: _prefix_sum,
    gelu: _gelu,
    slot_attention: lambda qkv, real: reference_slot_attention(qkv, real),
    cross_causal_attention: _attention,
}
