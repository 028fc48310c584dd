"""The kernels in PyTorch: custom ops with fake forms and autograd formulas, and the launches behind them.

Legend: U unique rows, N positions, B bags, D width, K rows of a table, T tables, S segments.
An index is `words, bits, length`: a bit-packed one, or a plain int32 one with 32 bits. `order` (N,) and `begins` (U +
1,) int32 are its segments.
"""

# Triton turns numbers into constants by itself, hence for launches:
# pyright: reportArgumentType=false

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dist_rec.kernels.common.backend import on
from dist_rec.kernels.common.eager import function_of, is_eager, is_eager_backward
from dist_rec.kernels.common.launch import cdiv, launch
from dist_rec.kernels.gather_pool.checks import MOST_TERMS, Index, Term, known
from dist_rec.kernels.gather_pool.gather import gather
from dist_rec.kernels.gather_pool.reduce import combine_parts, reduce_pieces
from dist_rec.kernels.gather_pool.tiles import CHECKED_SLOTS, PIECE, combine_tile, gather_tile, piece_for, reduce_tile
from dist_rec.kernels.unique_ids import BitPackedIndex, Segments
from dist_rec.kernels.unique_ids.bit_packed import WORD_BITS
from dist_rec.kernels.unique_ids.op import triton_unpack
from dist_rec.kernels.unique_ids.reference import read_at
from dist_rec.kernels.unique_ids.segments import sorted_segments


def triton_expand_add(
    rows: Tensor, inverse: Index, terms: Sequence[Term], segments: Segments | None, gelu: bool = False
) -> Tensor:
    tables, indices = [table for table, _ in terms], [index.int().contiguous() for _, index in terms]
    places = _listed(segments)
    if is_eager(rows, *tables):
        return _eager_gather(rows, *_flat(inverse), places, len(tables), gelu, *tables, *indices)
    return gather_rows(rows, *_flat(inverse), places, tables, indices, gelu)


def triton_pool(rows: Tensor, inverse: Index, offsets: Tensor, mode: str, segments: Segments | None) -> Tensor:
    offsets = offsets.int().contiguous()
    if mode != "last":
        run = _eager_pool if is_eager(rows) else pool_rows
        return run(rows, *_flat(inverse), offsets, mode, *known(segments))[0]
    # An index outside of the rows gives zeros, and no gradient.
    last_row = torch.full_like(offsets[1:], rows.shape[0])
    if len(inverse):
        positions = (offsets[1:] - 1).clamp(0, len(inverse) - 1)
        packed = isinstance(inverse, BitPackedIndex)
        found = read_at(inverse, positions) if packed else inverse.index_select(0, positions).int()
        last_row = torch.where(offsets.diff() > 0, found, last_row)
    return triton_expand_add(rows, last_row, (), None)


def _listed(segments: Segments | None) -> list[Tensor]:
    return [] if segments is None else [segments.order, segments.offsets]


def _flat(inverse: Index) -> tuple[Tensor, int, int]:
    if isinstance(inverse, BitPackedIndex):
        return inverse.words, inverse.bits, inverse.length
    return inverse.int().contiguous(), WORD_BITS, len(inverse)


def _gather_rows(
    rows: Tensor,
    words: Tensor,
    bits: int,
    length: int,
    segments: Sequence[Tensor],
    tables: Sequence[Tensor],
    indices: Sequence[Tensor],
    gelu: bool,
) -> Tensor:
    """(N, D) like rows: `rows[index] + sum_t tables[t][indices[t]]`, or its GELU; indices int32 and contiguous.
    `segments` are `order` and `begins` of the index, or nothing."""
    return _gather(rows, words, bits, length, tables, indices, gelu, None)


gather_rows = torch.library.custom_op("dist_rec::gather_rows", _gather_rows, mutates_args=())


@gather_rows.register_fake
def _(rows: Tensor, words: Tensor, bits: int, length: int, *rest: Any) -> Tensor:
    return rows.new_empty(length, rows.shape[1])


def _gather_gelu_backward(
    grad: Tensor,
    rows: Tensor,
    words: Tensor,
    bits: int,
    tables: Sequence[Tensor],
    indices: Sequence[Tensor],
) -> Tensor:
    """(N, D) like grad: the gradient of the sum whose GELU `gather_rows` returned. The sum is made again, because
    reading the rows moves less than keeping it."""
    return _gather(rows, words, bits, grad.shape[0], tables, indices, True, grad.contiguous())


gather_gelu_backward = torch.library.custom_op("dist_rec::gather_gelu_backward", _gather_gelu_backward, mutates_args=())


@gather_gelu_backward.register_fake
def _(grad: Tensor, *rest: Any) -> Tensor:
    return grad.new_empty(grad.shape)


def _gather(
    rows: Tensor,
    words: Tensor,
    bits: int,
    length: int,
    tables: Sequence[Tensor],
    indices: Sequence[Tensor],
    gelu: bool,
    grad: Tensor | None,
) -> Tensor:
    out = torch.empty(length, rows.shape[1], dtype=rows.dtype if grad is None else grad.dtype, device=rows.device)
    if out.numel() == 0:
        return out
    tile = gather_tile(rows.shape[1])
    names = range(MOST_TERMS)
    arguments: dict[str, Any] = {f"{name}_{t}": None for name in ("TABLE", "INDEX") for t in names}
    arguments |= {f"num_{t}": 0 for t in names}
    for t, (table, index) in enumerate(zip(tables, indices)):
        arguments |= {f"TABLE_{t}": table.contiguous(), f"INDEX_{t}": index, f"num_{t}": table.shape[0]}
    rows = _with_adjacent_columns(rows)
    arguments |= {
        "bits": bits,
        "length": length,
        "num_rows": rows.shape[0],
        "row_stride": rows.stride(0),
        "WIDTH": rows.shape[1],
    }
    grid = (cdiv(length, tile["BN"]), cdiv(rows.shape[1], tile["BD"]))
    with on(rows.device):
        launch(gather, grid, ROWS=rows, WORDS=words, OUT=out, GRAD=grad, GELU=gelu, **arguments, **tile)
    return out


def _pool_rows(
    rows: Tensor,
    words: Tensor,
    bits: int,
    length: int,
    offsets: Tensor,
    mode: str,
    order: Tensor | None,
    begins: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """(B, D) like rows: sum, mean or max of each bag; for max the winning positions, int32 (B, D), else (0,)."""
    # Pieces of one length: a bag's result does not depend on the lengths of others.
    options = {"WORDS": words, "bits": bits, "MEAN": mode == "mean", "PIECE": PIECE}
    return _reduce(rows, offsets, length, rows.dtype, options, mode == "max")


pool_rows = torch.library.custom_op("dist_rec::pool_rows", _pool_rows, mutates_args=())


@pool_rows.register_fake
def _(
    rows: Tensor, words: Tensor, bits: int, length: int, offsets: Tensor, mode: str, *rest: Any
) -> tuple[Tensor, Tensor]:
    shape = (len(offsets) - 1, rows.shape[1])
    return rows.new_empty(shape), rows.new_empty(shape if mode == "max" else (0,), dtype=torch.int32)


def _index_segments(words: Tensor, bits: int, length: int, num_rows: int) -> tuple[Tensor, Tensor]:
    """`order, begins` of an index, by one stable sort."""
    index = words if bits == WORD_BITS else triton_unpack(words, bits, length)
    found = sorted_segments(index[:length], num_rows)
    return found.order, found.offsets


index_segments = torch.library.custom_op("dist_rec::index_segments", _index_segments, mutates_args=())


@index_segments.register_fake
def _(words: Tensor, bits: int, length: int, num_rows: int) -> tuple[Tensor, Tensor]:
    return words.new_empty(length), words.new_empty(num_rows + 1)


def _sum_segments(grad: Tensor, order: Tensor, begins: Tensor, dtype: torch.dtype) -> Tensor:
    """(U, D) of dtype: for each row of an expansion the sum of grad (N, D) over its positions, in fp32."""
    piece = piece_for(len(begins) - 1)
    return _reduce(grad, begins, len(order), dtype, {"ORDER": order, "PIECE": piece}, False)[0]


sum_segments = torch.library.custom_op("dist_rec::sum_segments", _sum_segments, mutates_args=())


@sum_segments.register_fake
def _(grad: Tensor, order: Tensor, begins: Tensor, dtype: torch.dtype) -> Tensor:
    return grad.new_empty(len(begins) - 1, grad.shape[1], dtype=dtype)


def _pool_backward_rows(
    grad: Tensor, winner: Tensor, offsets: Tensor, mode: str, order: Tensor, begins: Tensor
) -> Tensor:
    """(U, D) like grad (B, D): the gradient of `pool_rows` for its rows."""
    positions = torch.arange(len(order), dtype=torch.int32, device=grad.device)
    # Behind the last offset it is B, which is no bag.
    bag_ids = torch.searchsorted(offsets, positions, right=True, out_int32=True) - 1
    options = {
        "ORDER": order,
        "BAG_IDS": bag_ids,
        "BAG_OFFSETS": offsets if mode == "mean" else None,
        "WINNER": winner if mode == "max" else None,
        "PIECE": piece_for(len(begins) - 1),
    }
    return _reduce(grad, begins, len(order), grad.dtype, options, False)[0]


pool_backward = torch.library.custom_op("dist_rec::pool_backward", _pool_backward_rows, mutates_args=())


@pool_backward.register_fake
def _(grad: Tensor, winner: Tensor, offsets: Tensor, mode: str, order: Tensor, begins: Tensor) -> Tensor:
    return grad.new_empty(len(begins) - 1, grad.shape[1])


def _keep_gather(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    rows, words, ctx.bits, ctx.length, segments, tables, indices, ctx.gelu = inputs
    again = (rows, *tables) if ctx.gelu else ()
    ctx.known = len(segments)
    ctx.save_for_backward(words, *segments, *indices, *again)
    ctx.shapes = [(table.shape[0], table.dtype, table.requires_grad) for table in (rows, *tables)]


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    words, *rest = ctx.saved_tensors
    segments, rest = rest[: ctx.known], rest[ctx.known :]
    indices = rest[: len(ctx.shapes) - 1]
    if ctx.gelu:
        rows, *tables = rest[len(indices) :]
        run = _gather_gelu_backward if is_eager_backward(grad) else gather_gelu_backward
        grad = run(grad, rows, words, ctx.bits, tables, indices)
    sort: Any = _index_segments if is_eager_backward(grad) else index_segments
    add = _sum_segments if is_eager_backward(grad) else sum_segments
    found: list[Tensor | None] = []
    indexed = [(words, ctx.bits, segments), *((index, WORD_BITS, []) for index in indices)]
    for (size, dtype, wanted), (index, bits, own) in zip(ctx.shapes, indexed):
        order, begins = own or (sort(index, bits, ctx.length, size) if wanted else (None, None))
        found.append(add(grad, order, begins, dtype) if wanted else None)
    return found[0], None, None, None, [None] * len(segments), found[1:], [None] * len(indices), None


gather_rows.register_autograd(_gather_backward, setup_context=_keep_gather)


def _gather_flat(
    rows: Tensor, words: Tensor, bits: int, length: int, segments: list[Tensor], count: int, gelu: bool, *terms: Tensor
) -> Tensor:
    """With the tables and indices as arguments of their own: a function has no gradients for lists."""
    return _gather_rows(rows, words, bits, length, segments, terms[:count], terms[count:], gelu)


def _keep_flat(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *first, count, gelu = inputs[:7]
    _keep_gather(ctx, (*first, inputs[7 : 7 + count], inputs[7 + count :], gelu), output)


def _flat_backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    rows, *_, tables, indices, _ = _gather_backward(ctx, grad)
    return rows, *(None,) * 6, *tables, *indices


_eager_gather = function_of(_gather_flat, _keep_flat, _flat_backward)


def _keep_pool(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    rows, words, ctx.bits, ctx.length, offsets, ctx.mode, order, begins = inputs
    ctx.save_for_backward(output[1], words, offsets, order, begins)
    ctx.num_rows = rows.shape[0]
    ctx.set_materialize_grads(False)  # the winning positions never get one


def _pool_backward(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    if grad is None:
        return (None,) * 8
    winner, words, offsets, order, begins = ctx.saved_tensors
    eager = is_eager_backward(grad)
    if order is None or begins is None:
        sort = _index_segments if eager else index_segments
        order, begins = sort(words, ctx.bits, ctx.length, ctx.num_rows)
    run = _pool_backward_rows if eager else pool_backward
    return run(grad, winner, offsets, ctx.mode, order, begins), *(None,) * 7


pool_rows.register_autograd(_pool_backward, setup_context=_keep_pool)
_eager_pool = function_of(_pool_rows, _keep_pool, _pool_backward)


def search_starts(begins: Tensor, length: int, piece: int) -> Tensor:
    """For the places 0, piece, 2 piece, ... below `length`: 1 + the segment that holds it."""
    places = torch.arange(0, length, piece, dtype=torch.int32, device=begins.device)
    return torch.searchsorted(begins, places, right=True, out_int32=True)


def _reduce(
    source: Tensor, begins: Tensor, length: int, dtype: torch.dtype, options: dict[str, Any], largest: bool
) -> tuple[Tensor, Tensor]:
    """(S, D): segments of source rows reduced, and with `largest` the winning positions (S, D), else (0,)."""
    segments, width = begins.shape[0] - 1, source.shape[1]
    out = torch.empty(segments, width, dtype=dtype, device=source.device)
    out_at = torch.empty(out.shape if largest else (0,), dtype=torch.int32, device=source.device)
    if out.numel() == 0:
        return out, out_at
    source, starts = _with_adjacent_columns(source), search_starts(begins, length, options["PIECE"])
    slots = starts.shape[0]
    # At most two parts for each slot: of a segment that begins before the slot's place, and of one that begins later.
    parts = torch.empty(2 * slots, width, dtype=torch.float32, device=source.device)
    parts_at = torch.empty(parts.shape if largest else (0,), dtype=torch.int32, device=source.device)
    shared = {"OFFSETS": begins, "STARTS": starts, "OUT": out, "OUT_AT": out_at, "PARTS": parts, "PARTS_AT": parts_at}
    shared |= {"segments": segments, "slots": slots, "MEAN": False, "LARGEST": largest, "WIDTH": width}
    given = (
        dict.fromkeys(("ORDER", "WORDS", "BAG_IDS", "BAG_OFFSETS", "WINNER")) | {"bits": WORD_BITS} | shared | options
    )
    tile, combining = reduce_tile(width, source.element_size()), combine_tile(width)
    columns = cdiv(width, tile["BD"])
    with on(source.device):
        grid = (cdiv(segments + slots, tile["BS"]), columns)
        of_source = {"SOURCE": source, "source_stride": source.stride(0), "num_sources": source.shape[0]}
        launch(reduce_pieces, grid, **of_source, **given, **tile)
        if slots > 1:
            shared |= {"MEAN": given["MEAN"], "PIECE": given["PIECE"]}
            launch(combine_parts, (cdiv(slots - 1, CHECKED_SLOTS), columns), **shared, **combining)
    return out, out_at


def _with_adjacent_columns(x: Tensor) -> Tensor:
    """The same rows with adjacent elements; rows may have any stride, 0 too."""
    return x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()
