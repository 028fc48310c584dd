"""What does a kept history win when candidates are scored?

    python -m benchmarks.bench_serving [--lengths 100 1000 10000] [--candidates 1 50 500] [--merge 1] [--batch 4]
        [--repeats 7] [--set KEY=VALUE ...]
    python -m benchmarks.bench_serving --paper

One process and one thread, processor time, forms in turns (serving/forms.py). Logits are compared first. Prints rows of
a table: candidates per second of every form, and the FLOPs of one candidate by the formula. With --paper those of
LONGER's published configuration instead (serving/paper.py)."""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch

from benchmarks.ladder.cell import Cell
from benchmarks.serving.forms import Forms
from benchmarks.serving.paper import paper_rows
from dist_rec.common.provenance import provenance_lines

FORMS = ("cached", "whole", "padded", "per candidate", "no history")
TOLERANCE = 1e-4


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="longer", choices=("longer", "hyformer"))
    parser.add_argument("--lengths", nargs="+", default=["100", "1000", "10000"])
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 50, 500])
    parser.add_argument("--merge", type=int, default=1)
    parser.add_argument("--batch", type=int, default=4, help="requests of a batch")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--set", dest="settings", action="append", default=[])
    parser.add_argument("--paper", action="store_true", help="FLOPs of the published configuration, nothing else")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print("\n".join(provenance_lines()) + "\n")
    if options.paper:
        print("\n".join(paper_rows()))
        return
    print(f"| events | candidates | {' | '.join(FORMS)} | cached / per candidate | cached / no history | MFLOPs each |")
    print("|---|---|" + "---|" * (len(FORMS) + 3))
    for lengths in options.lengths:
        for candidates in options.candidates:
            cell = Cell(
                options.model,
                lengths,
                candidates,
                options.merge,
                options.batch,
                steps=1,
                settings=tuple(options.settings),
            )
            print(row(cell, options.repeats), flush=True)


def row(cell: Cell, repeats: int) -> str:
    forms = Forms.of(cell)
    calls = forms.calls()
    wanted = calls["padded"]()
    for name in ("cached", "whole", "per candidate"):
        away = float((calls[name]() - wanted).abs().max())
        assert away < TOLERANCE, f"{cell.name}, {name}: logits are {away} away from those of the padded form"
    rates = {name: forms.candidates / seconds for name, seconds in processor_time(calls, repeats)}
    shown = " | ".join(f"{rates[name]:,.0f}" for name in FORMS)
    ratios = f"{rates['cached'] / rates['per candidate']:.1f} | {rates['cached'] / rates['no history']:.2f}"
    once, each = flops(forms)
    return (
        f"| {cell.lengths} | {cell.candidates} | {shown} | {ratios} | {each / 1e6:.2f} of {(once + each) / 1e6:.2f} |"
    )


def processor_time(calls: Mapping[str, Callable[[], object]], repeats: int) -> Iterator[tuple[str, float]]:
    """Median seconds of each call, in turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = time.process_time()
            call()
            found[name].append(time.process_time() - start)
    for name, seconds in found.items():
        yield name, float(np.median(seconds))


def flops(forms: Forms) -> tuple[int, int]:
    """Of the body by the formula: what a history costs once, and what each candidate costs."""
    body = forms.engine.body
    lengths = {of.name: int(forms.cell.lengths) for of in forms.schema.sequences[:1]}
    lengths |= {of.name: 0 for of in forms.schema.sequences[1:]}
    one, two = (sum(body.flops(lengths, candidates).values()) for candidates in (1, 2))
    return one - (two - one), two - one


if __name__ == "__main__":
    main()
