"""Searches tiles for the fused attention on the GPU at hand, on request; the library itself never tries anything at run
time.

    python -m benchmarks.tune_attention [--toy] [--cases A2,A8] [--kernels forward,one_pass]

For every case and kernel: times each candidate tile that fits this GPU and prints the fastest beside what `table.py`
has now. Put a winner into the table by hand, then run `python -m benchmarks.aot.attention`. With --toy it runs
anywhere, through Triton's interpreter, and times mean nothing."""

import argparse
import os
from collections.abc import Iterator
from dataclasses import replace
from unittest import mock

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # before any kernel is imported

from benchmarks.attention.cases import SHAPES, TOY, Problem, make_problem
from benchmarks.attention.peers import ours
from benchmarks.harness import Timing, measure_on_gpu, measure_side_by_side
from dist_rec.kernels.cross_causal_attention import tuning
from dist_rec.kernels.cross_causal_attention.tile_table import Tile
from dist_rec.kernels.cross_causal_attention.tuning import Tiles

KERNELS = ("forward", "one_pass", "queries", "keys")


def candidates(kernel: str, now: Tile, toy: bool) -> Iterator[Tile]:
    """Tiles around the present one. Only the key pass may change its rows: elsewhere they follow from the call."""
    if toy:
        yield replace(now, keys=16 if now.keys > 16 else 32)
        return
    for rows in (32, 64, 128) if kernel == "keys" else (now.rows,):
        for keys in (16, 32, 64, 128):
            for warps in (2, 4, 8):
                for stages in (1, 2, 3, 4):
                    yield Tile(rows, keys, warps, stages)


def with_tile(tiles: Tiles, kernel: str, tile: Tile) -> Tiles:
    return replace(tiles, **{kernel: tile})


def time_tile(problem: Problem, kernel: str, tiles: Tiles, repeats: int) -> Timing | None:
    """Of the forward, or of the backward that the kernel belongs to; None if the tile does not fit this GPU."""
    attention = ours(problem, promise=kernel not in ("queries", "keys"))
    leaves = [x.clone().requires_grad_() for x in (problem.q, problem.k, problem.v)]
    with mock.patch.object(tuning, "tiles_for", return_value=tiles):
        try:
            out = attention(*leaves)
            if kernel == "forward":
                call = lambda: attention(*(x.detach() for x in leaves))  # noqa: E731
            else:
                call = lambda: torch.autograd.grad(out, leaves, problem.grad, retain_graph=True)  # noqa: E731
            call()
        except Exception as error:
            if "OutOfResources" not in type(error).__name__:
                raise
            return None
        if torch.cuda.is_available():
            return measure_on_gpu({"tile": call}, repeats=repeats)["tile"]
        return measure_side_by_side({"tile": call}, repeats=repeats, warm_up=1)["tile"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--cases", type=lambda text: text.split(","), default=[])
    parser.add_argument("--kernels", type=lambda text: text.split(","), default=list(KERNELS))
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    if not options.toy and not torch.cuda.is_available():
        parser.error("tuning needs a GPU; --toy rehearses it here")
    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    for shape in TOY[:1] if options.toy else SHAPES:
        if options.cases and shape.name not in options.cases:
            continue
        problem = make_problem(shape, "fixed", dtype, torch.device(device))
        for kernel in options.kernels:
            promised = problem.max_q if kernel in ("forward", "one_pass") else None
            tiles = tuning.tiles_for(problem.q.device, dtype, shape.head_size, promised)
            now: Tile | None = getattr(tiles, kernel)
            if now is None:
                continue
            tried = {tile: with_tile(tiles, kernel, tile) for tile in [now, *candidates(kernel, now, options.toy)]}
            times = {tile: time_tile(problem, kernel, found, options.repeats) for tile, found in tried.items()}
            fitting = {tile: timing.p50 for tile, timing in times.items() if timing is not None}
            best = min(fitting, key=lambda tile: fitting[tile])
            print(
                f"{shape.name} {kernel}: now {now} {1e3 * fitting[now]:.3f} ms, best {best} {1e3 * fitting[best]:.3f} "
                f"ms ({len(fitting)} of {len(times)} tiles fit)",
                flush=True,
            )


if __name__ == "__main__":
    main()
