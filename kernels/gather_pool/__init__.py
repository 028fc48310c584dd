"""Unique rows copied to the positions that share them, or pooled into bags of positions.

Legend: U unique rows, N positions, B bags, D width, K rows of a small table.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import HAS_TRITON, Backend, choose
from dist_rec.kernels.common.native import why_not_native
from dist_rec.kernels.common.traced import traceable
from dist_rec.kernels.gather_pool.checks import Index, Mode, Term, check_bags, check_rows, check_terms, why_not_triton
from dist_rec.kernels.gather_pool.native import native_expand_add
from dist_rec.kernels.gather_pool.reference import reference_expand, reference_expand_add, reference_pool
from dist_rec.kernels.gather_pool.torch_backend import torch_expand, torch_expand_add, torch_pool
from dist_rec.kernels.unique_ids import BitPackedIndex, Segments, unpack_index

if HAS_TRITON:
    from dist_rec.kernels.gather_pool.op import triton_expand_add, triton_pool
else:
    triton_expand_add = triton_pool = None

__all__ = ["Backend", "Index", "Mode", "Term", "expand", "expand_add", "pool"]


@traceable
def expand(rows: Tensor, inverse: Index, *, segments: Segments | None = None, backend: Backend = "auto") -> Tensor:
    """`rows[inverse]`. The gradient of a row is the sum over its positions, in fp32, in the same order every time.

    Args:
        rows: (U, D) float.
        inverse: (N,) int32, int64 or bit-packed, values in [0, U). A value outside raises on a CPU; the kernels, which
            do not wait for the device, read no row and give zeros.
        segments: of `inverse`, if they are known: the backward then need not sort.
        backend: `triton` is one kernel, which reads a bit-packed inverse directly (fp32, fp16, bf16); `native` is the
            one of a CPU, in C++ (fp32; not for `pool`); `torch` is quick on a CPU, in float64 too; `reference` is plain
            indexing. `auto` takes `triton` on CUDA and `native` on a CPU where they can, else `torch`, and logs its
            choice once.

    Returns:
        (N, D) in the dtype of rows. Bytes moved: U D + N D elements and the index, backward the same.

    Raises:
        ValueError: shapes, dtypes or devices do not fit together, or the backend that is asked for cannot take them.
        RuntimeError: `backend="triton"` where there is neither a CUDA device nor Triton's interpreter.
    """
    check_rows(rows, inverse, segments)
    chosen = choose(
        "expand", backend, rows.device, why_not_triton(rows), native_obstacle=_why_not_native(rows, inverse, ())
    )
    if chosen == "triton":
        assert triton_expand_add is not None
        return triton_expand_add(rows, inverse, (), segments)
    plain = _plain(inverse)
    if chosen == "native":
        return native_expand_add(rows, plain, (), gelu=False)
    return torch_expand(rows, plain, segments) if chosen == "torch" else reference_expand(rows, plain)


@traceable
def pool(
    rows: Tensor,
    inverse: Index,
    offsets: Tensor,
    *,
    mode: Mode,
    segments: Segments | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """One row per bag of `rows[inverse]`, which is never materialized, neither forward nor backward.

    `sum` and `mean` add in fp32; `max` takes the largest of each column, of equals the first, and only that position's
    row gets the gradient; `last` is the row of the bag's last position. An empty bag gives zeros and no gradient.

    Args:
        rows, inverse, segments, backend: as in `expand`.
        offsets: (B + 1,) int32 or int64, rising from 0 to N. On a CPU anything else raises; the kernels leave out
            positions of no bag.

    Returns:
        (B, D) in the dtype of rows. Bytes moved: the index and at most N D elements, repeated ones from the cache.

    Raises:
        ValueError, RuntimeError: as in `expand`.
    """
    check_rows(rows, inverse, segments)
    check_bags(rows, inverse, offsets, mode)
    chosen = choose("pool", backend, rows.device, why_not_triton(rows))
    if chosen == "triton":
        assert triton_pool is not None
        return triton_pool(rows, inverse, offsets, mode, segments)
    plain = _plain(inverse)
    if chosen == "torch":
        return torch_pool(rows, plain, offsets, mode, segments)
    return reference_pool(rows, plain, offsets, mode)


@traceable
def expand_add(
    rows: Tensor,
    inverse: Index,
    terms: Sequence[Term],
    *,
    gelu: bool = False,
    segments: Segments | None = None,
    backend: Backend = "auto",
) -> Tensor:
    """`rows[inverse] + sum_t table_t[index_t]` in one pass, added in fp32 and rounded once.

    This is a linear layer over `[(item + position) ; time]`, multiplied before the rows are repeated: U rows, K
    positions and K buckets go through the matmul instead of N events.

    Args:
        rows, inverse, segments, backend: as in `expand`.
        terms: up to 4 pairs of a table (K, D), of any floating dtype, and its index (N,) int32 or int64 in [0, K).
        gelu: the GELU (by the error function) of the sum instead. `triton` and `native` apply it before they write,
            and keep nothing for the backward but the rows: they make the sum again.

    Returns:
        (N, D) in the dtype of rows.

    Raises:
        ValueError, RuntimeError: as in `expand`.
    """
    check_rows(rows, inverse, segments)
    check_terms(rows, inverse, terms)
    tables = (rows, *(table for table, _ in terms))
    obstacle = _why_not_native(rows, inverse, terms)
    chosen = choose("expand_add", backend, rows.device, why_not_triton(*tables), native_obstacle=obstacle)
    if chosen == "triton":
        assert triton_expand_add is not None
        return triton_expand_add(rows, inverse, terms, segments, gelu)
    plain = _plain(inverse)
    if chosen == "native":
        return native_expand_add(rows, plain, terms, gelu)
    if chosen == "reference":
        return reference_expand_add(rows, plain, terms, gelu)
    total = torch_expand_add(rows, plain, terms, segments)
    return torch.nn.functional.gelu(total) if gelu else total


def _plain(inverse: Index) -> Tensor:
    return unpack_index(inverse) if isinstance(inverse, BitPackedIndex) else inverse


def _why_not_native(rows: Tensor, inverse: Index, terms: Sequence[Term]) -> str:
    index = inverse.words if isinstance(inverse, BitPackedIndex) else inverse
    return why_not_native(rows, *(table for table, _ in terms), others=(index, *(index for _, index in terms)))
