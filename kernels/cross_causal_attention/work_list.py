"""The tiles of every request, listed on the device, the longest requests first: one program per tile.

Lengths are known only on the device, and the host does not wait for them. So a kernel starts with the largest possible
number of programs, and those behind the last tile stop at once.
"""

# Triton reads annotations as code and turns numbers into constants by itself, hence for kernels:
# pyright: reportMissingParameterType=false, reportArgumentType=false

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from dist_rec.kernels.common.launch import cdiv, launch

BLOCK = 64
CLEARING = 64  # programs that clear the end of a buffer


@dataclass(frozen=True)
class WorkList:
    """Slot s is tile `tile[s]` of request `request[s]`; a request's tiles are neighbours.

    - `request`, `tile` (slots,) int32, valid below `count` (1,) int32
    - `first` (B,) int32, slot of each request's first tile
    """

    request: Tensor
    tile: Tensor
    count: Tensor
    first: Tensor

    @property
    def slots(self) -> int:
        return self.request.shape[0]

    @property
    def arguments(self) -> dict[str, Tensor]:
        """The arguments of a kernel."""
        return {"REQUEST": self.request, "TILE": self.tile, "COUNT": self.count, "FIRST": self.first}


def make_work_list(
    offsets: Tensor, total: int, weight_offsets: Tensor, tile: int, *, factor: int = 1, at_least_one: bool = False
) -> WorkList:
    """Tiles of `tile` elements of every request; requests by falling weight, equal weights in the order of the batch.

    Args:
        offsets: (B + 1,) int, prefix sums; a request of n elements has ceil(n * factor / tile) tiles.
        total: the last of them, known on the host as the size of a jagged tensor.
        weight_offsets: (B + 1,) int, prefix sums of the lengths that order the requests.
        at_least_one: gives requests without elements one tile.
    """
    batch = offsets.shape[0] - 1
    slots = total * factor // tile + batch
    slots += -slots % 4  # both halves of the list are aligned alike, or a kernel would be compiled twice
    request, tiles = torch.empty(2, slots, dtype=torch.int32, device=offsets.device)
    count, first = (torch.empty(size, dtype=torch.int32, device=offsets.device) for size in (1, batch))
    grid = (cdiv(batch, BLOCK),)
    launch(
        _list_tiles,
        grid,
        OFFSETS=offsets,
        WEIGHT_OFFSETS=weight_offsets,
        REQUEST=request,
        TILE=tiles,
        COUNT=count,
        FIRST=first,
        batch=batch,
        tile=tile,
        factor=factor,
        LEAST=int(at_least_one),
        BLOCK=BLOCK,
    )
    return WorkList(request, tiles, count, first)


@triton.jit(do_not_specialize=["batch"])
def _list_tiles(
    OFFSETS, WEIGHT_OFFSETS, REQUEST, TILE, COUNT, FIRST, batch, tile, factor, LEAST: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    """Each program places BLOCK requests: the first tile of a request follows the tiles of all requests before it,
    counted by comparing it with every other request. Quadratic in B, but without a sort and in one launch."""
    mine = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    my_tiles = _tiles(OFFSETS, mine, batch, tile, factor, LEAST)
    my_weight = _length(WEIGHT_OFFSETS, mine, batch)
    before = tl.zeros([BLOCK], tl.int32)
    total = tl.zeros([BLOCK], tl.int32)
    for begin in range(0, batch, BLOCK):
        other = begin + tl.arange(0, BLOCK)
        tiles = _tiles(OFFSETS, other, batch, tile, factor, LEAST)
        weight = _length(WEIGHT_OFFSETS, other, batch)
        same = weight[None, :] == my_weight[:, None]
        earlier = (weight[None, :] > my_weight[:, None]) | (same & (other[None, :] < mine[:, None]))
        before += tl.sum(tl.where(earlier, tiles[None, :], 0), 1)
        total += tiles
    tl.store(FIRST + mine, before, mask=mine < batch)
    for t in range(0, tl.max(my_tiles)):
        tl.store(REQUEST + before + t, mine, mask=t < my_tiles)
        tl.store(TILE + before + t, before * 0 + t, mask=t < my_tiles)
    if tl.program_id(0) == 0:
        tl.store(COUNT, tl.sum(total))


@triton.jit
def _length(OFFSETS, b, batch):
    """Elements of requests b; -1 behind the last request."""
    there = b < batch
    return (tl.load(OFFSETS + b + 1, mask=there, other=-1) - tl.load(OFFSETS + b, mask=there, other=0)).to(tl.int32)


@triton.jit
def _tiles(OFFSETS, b, batch, tile, factor, LEAST: tl.constexpr):
    length = _length(OFFSETS, b, batch)
    return tl.where(length < 0, 0, tl.maximum(tl.cdiv(tl.maximum(length, 0) * factor, tile), LEAST)).to(tl.int32)


@dataclass(frozen=True)
class Offsets:
    """Offsets for the kernels, (B + 1,) int32; `broken` (1,) int32, not zero if the given ones were no prefix sums."""

    q: Tensor
    kv: Tensor
    broken: Tensor


def sound_offsets(q_offsets: Tensor, sum_q: int, kv_offsets: Tensor, sum_kv: int) -> Offsets:
    """Copies of offsets that begin at 0, never fall and end within the rows. All zeros otherwise: with lengths in
    the place of offsets, kernels would read and write outside of their tensors. One launch."""
    size = len(q_offsets)
    # Both halves are aligned alike for every batch size, or kernels would be compiled again.
    q, kv = torch.empty(2, size + -size % 4, dtype=torch.int32, device=q_offsets.device)[:, :size]
    broken = torch.empty(1, dtype=torch.int32, device=q_offsets.device)
    given = {"Q_OFFSETS": q_offsets, "KV_OFFSETS": kv_offsets, "size": len(q_offsets), "sum_q": sum_q, "sum_kv": sum_kv}
    launch(_sound, (1,), Q=q, KV=kv, BROKEN=broken, **given, BLOCK=1024)
    return Offsets(q, kv, broken)


@triton.jit(do_not_specialize=["size", "sum_q", "sum_kv"])
def _sound(Q_OFFSETS, KV_OFFSETS, Q, KV, BROKEN, size, sum_q, sum_kv, BLOCK: tl.constexpr) -> None:
    bad = _wrong_steps(Q_OFFSETS, size, BLOCK) + _wrong_steps(KV_OFFSETS, size, BLOCK)
    bad += (tl.load(Q_OFFSETS + size - 1) > sum_q).to(tl.int32) + (tl.load(KV_OFFSETS + size - 1) > sum_kv).to(tl.int32)
    tl.store(BROKEN, bad)
    for begin in range(0, size, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        tl.store(Q + at, tl.load(Q_OFFSETS + at, mask=(at < size) & (bad == 0), other=0).to(tl.int32), mask=at < size)
        tl.store(KV + at, tl.load(KV_OFFSETS + at, mask=(at < size) & (bad == 0), other=0).to(tl.int32), mask=at < size)


@triton.jit
def _wrong_steps(OFFSETS, size, BLOCK: tl.constexpr):
    """Falling steps, and one more if the first is not zero."""
    falling = tl.zeros([BLOCK], tl.int32)
    for begin in range(1, size, BLOCK):
        at = begin + tl.arange(0, BLOCK)
        there = at < size
        step = tl.load(OFFSETS + at, mask=there, other=0) - tl.load(OFFSETS + at - 1, mask=there, other=0)
        falling += (step < 0).to(tl.int32)
    return tl.sum(falling) + (tl.load(OFFSETS) != 0).to(tl.int32)


def clear_tails(offsets: Tensor, broken: Tensor, *tensors: Tensor) -> None:
    """Writes zeros behind the last offset: rows of a padded buffer that belong to no request, and that no tile writes.
    Writes NaN everywhere if the given offsets are no prefix sums: anything else would look like a result.

    Args:
        offsets, broken: see `Offsets`.
        tensors: (rows, H, D) contiguous, rows >= offsets[B].
    """
    for x in tensors:
        if x.numel():
            given = {"OFFSETS": offsets, "BROKEN": broken, "X": x}
            sizes = {"batch": len(offsets) - 1, "rows": len(x), "width": x[0].numel()}
            launch(_clear_tail, (CLEARING,), **given, **sizes, PROGRAMS=CLEARING, BLOCK=1024)


@triton.jit(do_not_specialize=["batch", "rows"])
def _clear_tail(OFFSETS, BROKEN, X, batch, rows, width, PROGRAMS: tl.constexpr, BLOCK: tl.constexpr) -> None:
    """Programs take blocks in turns; with nothing to clear they stop at once."""
    value = tl.where(tl.load(BROKEN) != 0, float("nan"), 0.0)
    first = tl.load(OFFSETS + batch).to(tl.int64) * width
    end = rows.to(tl.int64) * width
    step = tl.full((), PROGRAMS * BLOCK, tl.int64)
    begin = first + tl.program_id(0) * BLOCK
    for turn in range(0, tl.cdiv(tl.maximum(end - begin, 0), step)):
        at = begin + turn * step + tl.arange(0, BLOCK)
        tl.store(X + at, (tl.zeros([BLOCK], tl.float32) + value).to(X.dtype.element_ty), mask=at < end)
