"""How much faster than a plain TorchRec job is dist_rec, on histories like mine?

    python -m benchmarks.bench_e2e ladder --lengths 200 --merge 1 --candidates 4 [--rows 1,2,sync,delayed] [--out FILE]

Every row of the ladder (`benchmarks/ladder/rows.py`) trains the same model on the same requests from the same weights,
in turns, on two gloo ranks with one thread each; their logits are checked before."""

import argparse
from pathlib import Path

from benchmarks.ladder.cell import Cell
from benchmarks.ladder.measure import measure
from benchmarks.ladder.report import table
from benchmarks.ladder.rows import chosen
from dist_rec.common.provenance import provenance_lines

BATCH = {"quickstart": 32, "200": 32, "1000": 8, "2000": 4}
STEPS = {"quickstart": 16}


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    ladder = commands.add_parser("ladder", help="one cell, all rows")
    ladder.add_argument("--model", default="longer", help="longer or hyformer")
    ladder.add_argument("--lengths", default="quickstart", help="quickstart, or events of every history")
    ladder.add_argument("--candidates", type=int, default=4)
    ladder.add_argument("--merge", type=int, default=1)
    ladder.add_argument("--batch", type=int, help="requests of a batch and rank; by default by the lengths")
    ladder.add_argument("--steps", type=int, help="batches of a block; by default 16 at quickstart lengths, else 4")
    ladder.add_argument("--rows", default="all", help="such as 1,2,sync,delayed")
    ladder.add_argument("--rounds", type=int, default=7)
    ladder.add_argument("--out", type=Path)
    return parser


def ladder(options: argparse.Namespace) -> list[str]:
    cell = Cell(
        model=options.model,
        lengths=options.lengths,
        candidates=options.candidates,
        merge=options.merge,
        batch=options.batch or BATCH.get(options.lengths, 8),
        steps=options.steps or STEPS.get(options.lengths, 4),
    )
    found = measure(cell, chosen(options.rows), options.rounds)
    return [f"## {cell.name}", "", *table(cell, found)]


def main() -> None:
    options = arguments().parse_args()
    lines = ladder(options)
    text = "\n".join(["# The ladder", "", *provenance_lines(), "", *lines]) + "\n"
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
