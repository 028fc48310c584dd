"""Time and memory of a step along one axis at a time, with straight lines through them.

Time is processor time of one rank and thread, medians of blocks in turns. Memory is the largest resident size of the
whole process (VmHWM, Linux) over steps of one shape, after the pages of the shapes before were given back.
"""

import ctypes
import gc
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.cost.cells import Cell, Running, measure
from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, start_ranks

ROOT = Path(__file__).resolve().parents[2]
RANKS = (1, 2, 4)


@dataclass(frozen=True)
class Axis:
    """Cells that differ in one thing, `of`, along which a line is fitted."""

    name: str
    cells: list[Cell]
    of: Callable[[Cell], float]


BASE, LONG = Cell(), Cell(requests=8)
AXES = {
    axis.name: axis
    for axis in (
        Axis("length", [replace(LONG, length=n) for n in (100, 300, 1000, 3000, 10_000)], lambda c: c.length),
        Axis("length, merge 4", [replace(LONG, length=n, merge=4) for n in (100, 1000, 10_000)], lambda c: c.length),
        Axis("requests", [replace(BASE, requests=n) for n in (8, 16, 32, 64, 128)], lambda c: c.requests),
        Axis("duplicates", [replace(BASE, duplicates=n) for n in (0.0, 0.25, 0.5, 0.75, 0.95)], lambda c: c.duplicates),
        Axis("candidates", [replace(LONG, candidates=n) for n in (1, 10, 100, 250, 500)], lambda c: c.candidates),
        Axis("k", [replace(BASE, k=n) for n in (8, 16, 32, 64, 128)], lambda c: c.k),
        Axis("merge", [replace(BASE, merge=n) for n in (1, 2, 4, 8)], lambda c: c.merge),
        Axis("width", [replace(BASE, width=n) for n in (16, 32, 64, 128)], lambda c: c.width),
    )
}


def curve(axis: Axis, ranks: Ranks, *, blocks: int, block_s: float) -> list[str]:
    """One line per point, then the lines that fit."""
    seconds = measure(axis.cells, ranks, blocks=blocks, block_s=block_s)
    memory = [peak_mib(cell, ranks) for cell in axis.cells]
    x, ms = [axis.of(cell) for cell in axis.cells], [1e3 * value for value in seconds.values()]
    lines = [f"| {axis.name} | events of the batch | ms | peak of the process, MiB |", "|---:|---:|---:|---:|"]
    for cell, at, time_ms, mib in zip(axis.cells, x, ms, memory, strict=True):
        lines.append(f"| {at:g} | {cell.events:,} | {time_ms:.1f} | {mib:,.0f} |")
    return [*lines, "", f"ms = {fit(x, ms)}; MiB = {fit(x, memory)}", ""]


def fit(x: list[float], y: list[float]) -> str:
    """`a + b x` with its R^2, as text."""
    slope, start = np.polyfit(x, y, 1)
    rest = np.asarray(y) - (start + slope * np.asarray(x))
    total = np.asarray(y) - np.mean(y)
    r2 = 1 - float(rest @ rest) / float(total @ total) if np.any(total) else 1.0
    return f"{start:.4g} + {slope:.4g} x (R^2 {r2:.4f})"


def peak_mib(cell: Cell, ranks: Ranks, steps: int = 3) -> float:
    """Largest resident MiB of this process over some steps of a cell."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    running = Running(cell, ranks)
    for _ in range(steps):
        running.block_s(0.0)
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def over_ranks(*, blocks: int, block_s: float, worlds: tuple[int, ...] = RANKS, cell: Cell = BASE) -> list[str]:
    """Processor time and memory of a rank's step where several gloo ranks train, each on a batch of its own."""
    lines = ["| ranks | ms of processor time, mean of the ranks | largest peak of a rank, MiB |", "|---:|---:|---:|"]
    for world in worlds:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "found.json"
            command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(world), "--standalone"]
            command += ["-m", "benchmarks.cost.curves", str(blocks), str(block_s), str(cell.length), str(out)]
            subprocess.run(command, cwd=ROOT, check=True)
            ms, mib = json.loads(out.read_text())
        lines.append(f"| {world} | {ms:.1f} | {mib:,.0f} |")
    return lines


def on_a_rank(blocks: int, block_s: float, length: int, out: Path) -> None:
    """On every rank. Blocks have as many steps on all of them."""
    cell = replace(BASE, length=length)
    with start_ranks(ParallelConfig()) as ranks:
        running = Running(cell, ranks)
        (first,) = ranks.largest(running.block_s(0.0))
        steps = max(int(block_s / first), 1)
        found = [np.mean([running.block_s(0.0) for _ in range(steps)]) for _ in range(blocks)]
        (total,) = ranks.total(float(np.median(found)))
        (mib,) = ranks.largest(int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0]) / 1024)
        if ranks.is_main:
            out.write_text(json.dumps([1e3 * total / ranks.world_size, mib]))


if __name__ == "__main__":
    on_a_rank(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
