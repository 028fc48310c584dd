"""Ids of n-grams over the events of jagged sequences: an event and those before it, hashed into rows of a table.

After "Scaling Embeddings Outperforms Scaling Experts" (arXiv 2601.21204, equations 2 and 3), over events.

Legend: N events of B sequences, M heads (a hash with rows of its own), O the longest n-gram.
"""

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import HAS_TRITON, Backend, choose
from dist_rec.kernels.common.offsets import check_offsets, readable
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.ngram_ids.reference import reference_ngram_ids
from dist_rec.kernels.ngram_ids.torch_backend import torch_ngram_ids

if HAS_TRITON:
    from dist_rec.kernels.ngram_ids.op import triton_ngram_ids
else:
    triton_ngram_ids = None

__all__ = ["HEAD_NUMBERS", "ngram_ids"]

HEAD_NUMBERS = 4  # numbers of a head before its powers


@traceable
def ngram_ids(
    values: Tensor,
    offsets: Tensor,
    heads: Tensor,
    *,
    polynomial: bool = False,
    hidden: int | None = None,
    times: Tensor | None = None,
    gap: int = 0,
    backend: Backend = "auto",
) -> Tensor:
    """Row of every event and head: `first + hash(t_i, t_{i-1}, .., t_{i-order+1})`. Causal, per sequence.

    The token of an event is its value + 1; 0 is "no event". Looking back from event i stops before the first event of
    its sequence, before an event of value `hidden`, and, with `times`, before a pause longer than `gap`; from there on
    tokens are 0. An event of value `hidden` looks back at nothing. So one more event at the end changes no id before
    it, and another event changes ids of the O - 1 events after it at most.

    Hashes, in 64 bits:

    - mixed: `h = key`, then `h = mix(h ^ t)` from the newest token to the oldest, `mix` being the finalizer of
      splitmix64 (Steele et al., OOPSLA 2014); the row is `(h >> 32) * rows >> 32`. The rows of a head are used as by
      chance.
    - polynomial: `(sum_j (t_{i-j} mod rows) * power_j) mod rows`, with `power_j = base^j mod rows`: the paper's. Rows
      close to a multiple of the base, or with a common divisor, collide much more often than by chance.

    Args:
        values: (N,) int64, from 0 to 2^63 - 2.
        offsets: (B + 1,) int32 or int64, rising from 0 to N.
        heads: (M, 4 + O) int64, of each head: order (1 to O), rows (1 to 2^31 - 1), first row, key, and the powers.
        polynomial: which hash.
        hidden: the value of events that n-grams stop at; None: there are none.
        times: (N,) int32 or int64, times or ages of the events; None: sequences have no pauses.
        gap: the longest pause, in the unit of `times`, that an n-gram reaches across. It must be at least 0.
        backend: `triton` is one launch; `torch` makes passes over (N, M); `reference` is plain Python; `auto` takes
            `triton` on CUDA where it can, else `torch`, and logs its choice once.

    Returns:
        (N, M) int64, bitwise the same from every backend. Bytes moved: 8 N (M + 1), and 8 N of times.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together.
        RuntimeError: `backend="triton"` where there is neither a CUDA device nor Triton's interpreter.
    """
    _check(values, offsets, heads, times, gap)
    chosen = choose("ngram_ids", backend, values.device)
    stop = None if hidden is None else int(hidden)
    if chosen == "triton":
        assert triton_ngram_ids is not None
        return triton_ngram_ids(values, offsets, heads, polynomial, stop, times, gap)
    run = torch_ngram_ids if chosen == "torch" else reference_ngram_ids
    return run(values, offsets, heads, polynomial, stop, times, gap)


def _check(values: Tensor, offsets: Tensor, heads: Tensor, times: Tensor | None, gap: int) -> None:
    if values.dim() != 1 or values.dtype != torch.int64:
        raise ValueError(f"values must be (N,) int64, got {tuple(values.shape)} {values.dtype}")
    if heads.dim() != 2 or heads.dtype != torch.int64 or heads.shape[0] < 1 or heads.shape[1] <= HEAD_NUMBERS:
        raise ValueError(f"heads must be (M, 4 + O) int64, with M and O at least 1, got {tuple(heads.shape)}")
    if offsets.dim() != 1 or len(offsets) == 0 or offsets.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"offsets must be (B + 1,), int32 or int64, got {tuple(offsets.shape)} {offsets.dtype}")
    if times is not None and (times.shape != values.shape or times.dtype not in (torch.int32, torch.int64)):
        raise ValueError(f"times must be ({len(values)},), int32 or int64, got {tuple(times.shape)} {times.dtype}")
    for name, x in (("offsets", offsets), ("heads", heads), ("times", times)):
        if x is not None and x.device != values.device:
            raise ValueError(f"{name} must be on the device of values, {values.device}, got {x.device}")
    if gap < 0:
        raise ValueError(f"gap must be at least 0, got {gap}")
    if readable(offsets):
        check_offsets("offsets", offsets, len(values))
