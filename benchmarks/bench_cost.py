"""What a step costs on a CPU, what was predicted, and what this machine can do.

    python -m benchmarks.bench_cost ceilings [--out FILE.yaml]
    python -m benchmarks.bench_cost predict [--out FILE.md]
    python -m benchmarks.bench_cost curves [AXIS ...] [--out FILE.md]

`ceilings` measures the machine at hand and writes it for `dist-rec plan-cost --machine`. `predict` sets 36 shapes of a
step against the cost model. `curves` measures time and memory of a step along its axes, and over 1, 2 and 4 ranks.
One thread; processor time."""

import argparse
import logging
from collections.abc import Callable
from pathlib import Path

import torch
import yaml

from benchmarks.cost import curves, sweep
from benchmarks.cost.ceilings import SIZES, Effort
from dist_rec.common.provenance import provenance_lines
from dist_rec.config import ParallelConfig
from dist_rec.training.ranks import Ranks, start_ranks

OVER_RANKS = "ranks"


def _effort(options: argparse.Namespace) -> Effort:
    return Effort(1, 0.001, SIZES[2:4]) if options.toy else Effort(options.blocks)


def ceilings(ranks: Ranks, options: argparse.Namespace) -> list[str]:
    about = [f"# {line}" for line in provenance_lines()]
    return [*about, yaml.safe_dump(sweep.here(ranks, _effort(options)).model_dump(), sort_keys=False)]


def predict(ranks: Ranks, options: argparse.Namespace) -> list[str]:
    cells = sweep.SWEEP[:2] if options.toy else sweep.SWEEP
    about = ["# Predicted against measured steps on a CPU", "", *provenance_lines(), f"- {_base(cells[0])}", ""]
    return [*about, *sweep.run(cells, ranks, _effort(options), block_s=options.block_s)]


def measure_curves(ranks: Ranks, options: argparse.Namespace) -> list[str]:
    lines = ["# Time and memory of a step on a CPU", "", *provenance_lines(), f"- {_base(curves.BASE)}", ""]
    wanted = options.axes or [*curves.AXES, OVER_RANKS]
    for name in wanted:
        if name != OVER_RANKS:
            axis = curves.AXES[name]
            axis = curves.Axis(name, axis.cells[:2], axis.of) if options.toy else axis
            lines += curves.curve(axis, ranks, blocks=options.blocks, block_s=options.block_s)
    if OVER_RANKS in wanted:
        worlds = curves.RANKS[:1] if options.toy else curves.RANKS
        lines += curves.over_ranks(blocks=options.blocks, block_s=options.block_s, worlds=worlds)
    return lines


def _base(cell: object) -> str:
    return f"shapes differ from this one: {cell}; LONGER, AdamW, delayed, fp32, batches made before"


COMMANDS: dict[str, Callable[[Ranks, argparse.Namespace], list[str]]] = {
    "ceilings": ceilings,
    "predict": predict,
    "curves": measure_curves,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=COMMANDS)
    parser.add_argument("axes", nargs="*", help=f"of curves: {', '.join(curves.AXES)}, {OVER_RANKS}; all by default")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--block-s", type=float, default=0.1)
    parser.add_argument("--toy", action="store_true", help="Two shapes of everything.")
    options = parser.parse_args()
    if unknown := set(options.axes) - {*curves.AXES, OVER_RANKS}:
        parser.error(f"no axis {', '.join(sorted(unknown))}; there are: {', '.join(curves.AXES)}, {OVER_RANKS}")
    torch.set_num_threads(1)
    logging.getLogger("torchrec").setLevel(logging.ERROR)  # about plans, once for every shape
    with start_ranks(ParallelConfig()) as ranks:
        text = "\n".join(COMMANDS[options.command](ranks, options)) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
