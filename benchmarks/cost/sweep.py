"""Predicted against measured: 36 shapes of a step on this CPU.

The machine's ceilings are measured in the same run, on tensors of their own (`ceilings.py`). The time of an operator
that does next to nothing is that of a step of two short requests, in turns with the shapes but none of them. The times
of the shapes enter nowhere.
"""

from itertools import product

from benchmarks.cost.ceilings import Effort, machine
from benchmarks.cost.cells import SMALL, Cell, count, launch_s, measure
from dist_rec.cost.machine import Machine
from dist_rec.cost.predict import stages_of
from dist_rec.training.ranks import Ranks

LENGTHS, WIDTHS, MERGES, CANDIDATES = (100, 400, 1600), (16, 32, 64), (1, 4), (1, 16)
CLOSE = 0.25
SWEEP = [
    Cell(length=length, width=width, merge=merge, candidates=candidates)
    for length, width, merge, candidates in product(LENGTHS, WIDTHS, MERGES, CANDIDATES)
]


def here(ranks: Ranks, effort: Effort) -> Machine:
    """The machine at hand, all of it measured."""
    (small_s,) = measure([SMALL], ranks, blocks=3 * effort.blocks, block_s=3 * effort.block_s).values()
    return machine(effort, launch_s(small_s, ranks))


def predicted_s(cell: Cell, of: Machine, ranks: Ranks) -> float:
    return sum(work.seconds for work in stages_of(count(cell, ranks), of).values())


def run(cells: list[Cell], ranks: Ranks, effort: Effort, *, block_s: float) -> list[str]:
    """A table of all cells, and how many are close."""
    small_s, *seconds = measure([SMALL, *cells], ranks, blocks=effort.blocks, block_s=block_s).values()
    of = machine(effort, launch_s(small_s, ranks))
    lines = [
        "| events | width | merge | candidates | predicted, ms | measured, ms | predicted / measured |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    close = 0
    for cell, measured in zip(cells, seconds, strict=True):
        predicted = predicted_s(cell, of, ranks)
        ratio = predicted / measured
        close += abs(ratio - 1) <= CLOSE
        shape = f"{cell.length} | {cell.width} | {cell.merge} | {cell.candidates}"
        lines.append(f"| {shape} | {1e3 * predicted:.1f} | {1e3 * measured:.1f} | {ratio:.2f} |")
    lines += ["", f"Within {CLOSE:.0%}: {close} of {len(cells)}."]
    return lines
