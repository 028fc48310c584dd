"""`expand` and `pool` alone against torch's own, forward and backward, at the sizes of the lookup.

Legend: N events, U distinct ids, B requests, D row width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import embedding, embedding_bag

from benchmarks.harness import Timing, measure_on_gpu, measure_side_by_side
from benchmarks.lookup.ways import Size
from dist_rec.kernels.gather_pool import Backend, expand, pool
from dist_rec.kernels.unique_ids import segments_of

Operator = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class OperatorLine:
    """`error`: largest difference of output and gradient from the first peer's. The first line of an operator is that
    peer."""

    size: Size
    unique: int
    operator: str
    what: str
    time: Timing
    needed_bytes: int
    error: float


def measure_operators(size: Size, ids: Tensor, device: torch.device, *, repeats: int) -> list[OperatorLine]:
    unique, inverse = ids.to(device).unique(return_inverse=True)
    rows = torch.randn(len(unique), size.width, device=device, requires_grad=True)
    bags = torch.arange(0, size.events + 1, size.length, dtype=torch.int32, device=device)
    lines = []
    for operator, peers in (("expand", _expanding(inverse, rows)), ("pool, mean", _pooling(inverse, rows, bags))):
        results = {what: peer(rows) for what, peer in peers.items()}
        grad = torch.randn_like(next(iter(results.values())))
        calls = {what: partial(_forward_backward, peer, rows, grad) for what, peer in peers.items()}
        results = {what: call() for what, call in calls.items()}
        truth = next(iter(results.values()))
        errors = {what: max(float((x - y).abs().max()) for x, y in zip(got, truth)) for what, got in results.items()}
        # Nothing here waits for the device, so events alone tell.
        times = (measure_on_gpu if device.type == "cuda" else measure_side_by_side)(calls, repeats=repeats)
        # Rows read and their gradients written, output written and its gradient read, an index of 4 bytes forward and
        # backward.
        needed = 4 * size.width * 2 * (len(unique) + len(grad)) + 8 * size.events
        lines += [OperatorLine(size, len(unique), operator, what, times[what], needed, errors[what]) for what in calls]
    return lines


def _forward_backward(operator: Operator, rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    out = operator(rows)
    return out.detach(), *torch.autograd.grad(out, rows, grad)


def _backends(rows: Tensor) -> tuple[Backend, ...]:
    """On a CPU the kernel, too, through Triton's interpreter."""
    return ("triton",) if rows.is_cuda else ("torch", "triton")


def _expanding(inverse: Tensor, rows: Tensor) -> dict[str, Operator]:
    """What is sorted beforehand is what `unique_ids` leaves; torch's own get the int64 index that they are quickest
    with."""
    index, segments = inverse.int(), segments_of(inverse, len(rows))
    peers: dict[str, Operator] = {
        "F.embedding": lambda rows: embedding(inverse, rows),
        "index_select": lambda rows: rows.index_select(0, inverse),
    }
    for backend in _backends(rows):
        peers[f"expand ({backend})"] = partial(expand, inverse=index, backend=backend)
        peers[f"expand ({backend}), segments given"] = partial(
            expand, inverse=index, segments=segments, backend=backend
        )
    return peers


def _pooling(inverse: Tensor, rows: Tensor, bags: Tensor) -> dict[str, Operator]:
    index, segments, long_bags = inverse.int(), segments_of(inverse, len(rows)), bags.long()
    peers: dict[str, Operator] = {
        "F.embedding_bag": lambda rows: embedding_bag(inverse, rows, long_bags, mode="mean", include_last_offset=True)
    }
    for backend in _backends(rows):
        ours = partial(pool, inverse=index, offsets=bags, mode="mean", backend=backend)
        peers[f"pool ({backend})"] = ours
        peers[f"pool ({backend}), segments given"] = partial(ours, segments=segments)
    return peers
