"""Cross-causal attention on a CPU in C++: every request and head by itself, without padding, gathers or masks.

fp32. A row meets its visible keys only, in an order that depends on its own position alone: a result depends neither on
hidden keys nor on other requests, in torch's deterministic mode and without.
"""

# torch's stub gives `backward` any number of gradients.
# pyright: reportIncompatibleMethodOverride=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.native import address, differentiated_once, index, run
from dist_rec.kernels.cross_causal_attention.mask import Mask


def native_attention(
    q: Tensor, k: Tensor, v: Tensor | None, q_offsets: Tensor, kv_offsets: Tensor, mask: Mask, scale: float
) -> Tensor:
    """See `cross_causal_attention`; without v, k holds both, and gets one gradient."""
    layout = [x if x is None else x.contiguous() for x in (q_offsets, kv_offsets, *mask.tensors)]
    # Columns of a row are read in one go; rows and heads may lie anywhere.
    k = k if k.stride(2) == 1 else k.contiguous()
    v = v if v is None or v.stride(2) == 1 else v.contiguous()
    return _Attention.apply(q.contiguous(), k, v, mask.causal, mask.group_size, scale, *layout)  # pyright: ignore[reportReturnType]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor | None,
        causal: bool,
        group_size: int,
        scale: float,
        *layout: Tensor | None,
    ) -> Tensor:
        out, (peak, total) = torch.empty_like(q), q.new_empty(2, *q.shape[:2])
        ctx.options = causal, group_size, scale
        arguments = *_call(q, k, v, layout, *ctx.options), *(x.data_ptr() for x in (out, peak, total))
        run("attend", arguments, of="cross_causal_attention", touched=(q, k, v, out), flops=4 * _pairs(q, k, layout))
        ctx.save_for_backward(q, k, v, out, peak, total, *layout)
        return out

    @staticmethod
    @differentiated_once
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, peak, total, *layout = ctx.saved_tensors
        grad = grad.contiguous()
        dq = torch.empty_like(q)
        dk, dv = (None if x is None else x.new_empty(x.shape) for x in (k, v))
        assert dk is not None
        by_key = dk.chunk(2, dim=1) if dv is None else (dk, dv)
        run(
            "attend_backward",
            (
                *_call(q, k, v, layout, *ctx.options),
                *(x.data_ptr() for x in (out, peak, total, grad, dq, *by_key)),
                *(stride for x in by_key for stride in x.stride()[:2]),
            ),
            of="cross_causal_attention_backward",
            touched=(q, k, v, out, grad, dq, dk, dv),
            flops=10 * _pairs(q, k, layout),
        )
        return dq, dk, dv, *(None,) * (3 + len(layout))


def _pairs(q: Tensor, k: Tensor, layout: Sequence[Tensor | None]) -> int:
    """Rows times keys times columns, for requests that are all of mean size."""
    assert layout[0] is not None
    return len(q) * len(k) // max(len(layout[0]) - 1, 1) * q.shape[1] * q.shape[2]


def _call(
    q: Tensor, k: Tensor, v: Tensor | None, layout: Sequence[Tensor | None], causal: bool, size: int, scale: float
) -> tuple[int | float, ...]:
    """The arguments that both passes share, in the order of `read_attention` (kernels/native/_native.cpp)."""
    k, v = k.chunk(2, dim=1) if v is None else (k, v)
    q_offsets, kv_offsets, counts, prefix_len, positions, key_valid = layout
    assert q_offsets is not None
    return (
        torch.get_num_threads(),
        len(q_offsets) - 1,
        q.shape[1],
        k.shape[1],
        q.shape[2],
        *(x.data_ptr() for x in (q, k, v)),
        *k.stride()[:2],
        *v.stride()[:2],
        *(number for x in (q_offsets, kv_offsets, counts, prefix_len, positions) for number in index(x)),
        address(key_valid),
        int(causal),
        size,
        scale,
        len(q),
        len(k),
    )
