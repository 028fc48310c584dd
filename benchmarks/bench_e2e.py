"""How much faster than a plain TorchRec job is dist_rec, on histories like mine?

    python -m benchmarks.bench_e2e ladder --lengths 200 [--merge 4] [--candidates 50] [--rows 1,2,sync] [--out FILE.md]
    python -m benchmarks.bench_e2e sweep --out FILE.md [--models longer] [--merges 1] [--repeats 3]
    python -m benchmarks.bench_e2e compare COMMIT COMMIT [--lengths 200] [--rows 2,sync,delayed]

`ladder`: one cell. Every row (`benchmarks/ladder/rows.py`) trains the same model on the same requests from the same
weights, in turns, on a rank per GPU, or without one on two gloo ranks with one thread each; their logits are checked
before. `sweep`: all cells, written down after each. `compare`: the rows of two commits, whose blocks take turns."""

import argparse
import itertools
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.ladder.cell import Cell
from benchmarks.ladder.compare import compare
from benchmarks.ladder.measure import measure
from benchmarks.ladder.report import EXPLAINED, comparison, table
from benchmarks.ladder.rows import ROWS, chosen
from dist_rec.common.provenance import provenance_lines

BATCHES = {"quickstart": (32,), "200": (32,), "1000": (8,), "2000": (4, 16)}  # requests of a batch, by lengths
STEPS = {"quickstart": 16}
OTHER_BATCH, OTHER_STEPS = 8, 4
COMPARED = "1,2,sync,delayed"
MOST_REPEATED_EVENTS = 500_000  # of a batch in a sweep


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    ladder = commands.add_parser("ladder", help="one cell, all rows")
    swept = commands.add_parser("sweep", help="every cell, three times; a page that grows")
    compared = commands.add_parser("compare", help="two commits, blocks of each in turns")
    compared.add_argument("commits", nargs=2, metavar="COMMIT")
    for command in (ladder, compared):
        command.add_argument("--model", default="longer", help="longer or hyformer")
        command.add_argument("--lengths", default="quickstart", help="quickstart, or events of every history")
        command.add_argument("--candidates", type=int, default=4)
        command.add_argument("--merge", type=int, default=1)
        command.add_argument("--batch", type=int, help="requests of a batch and rank; by default by the lengths")
        command.add_argument(
            "--steps", type=int, help="batches of a block; by default 16 at quickstart lengths, else 4"
        )
    ladder.add_argument("--auc", type=int, default=0, metavar="STEPS", help="train each row so long for its AUC")
    ladder.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of all rows' recipe")
    swept.add_argument("--models", default="longer,hyformer")
    swept.add_argument("--lengths", default=",".join(BATCHES))
    swept.add_argument("--merges", default="1,4", help="of LONGER")
    swept.add_argument("--candidates", default="1,4,50")
    for command, rows in ((ladder, "all"), (swept, "all"), (compared, COMPARED)):
        command.add_argument("--rows", default=rows, help="all, or some such as 1,2,sync,delayed")
        command.add_argument("--rounds", type=int, default=7, help="blocks of every row")
        command.add_argument("--out", type=Path, required=command is swept)
    for command in (ladder, swept):
        command.add_argument(
            "--repeats", type=int, default=3 if command is swept else 1, help="new processes each time"
        )
    return parser


def cell_of(options: argparse.Namespace) -> Cell:
    return Cell(
        model=options.model,
        lengths=options.lengths,
        candidates=options.candidates,
        merge=options.merge,
        batch=options.batch or BATCHES.get(options.lengths, (OTHER_BATCH,))[0],
        steps=options.steps or STEPS.get(options.lengths, OTHER_STEPS),
        auc_steps=getattr(options, "auc", 0),
        settings=tuple(getattr(options, "set", ())),
    )


def cells_of(options: argparse.Namespace) -> Iterator[Cell]:
    """The cells of a sweep, models outermost."""
    lists = (each.split(",") for each in (options.models, options.lengths, options.candidates, options.merges))
    for model, lengths, candidates, merge in itertools.product(*lists):
        if model == "hyformer" and merge != "1":
            continue  # it merges nothing
        for batch in BATCHES.get(lengths, (OTHER_BATCH,)):
            yield Cell(model, lengths, int(candidates), int(merge), batch, STEPS.get(lengths, OTHER_STEPS))


def rows_of(cell: Cell, rows: str) -> str:
    """The rows of a cell of a sweep: none with repeated histories where one batch would take gigabytes."""
    if cell.repeated_events <= MOST_REPEATED_EVENTS:
        return rows
    return ",".join(name for name in chosen(rows) if not ROWS[name].per_candidate)


def section(cell: Cell, rows: str, options: argparse.Namespace) -> list[str]:
    """A cell with its own command and table."""
    found = [measure(cell, chosen(rows), options.rounds) for _ in range(options.repeats)]
    command = [
        *("python", "-m", "benchmarks.bench_e2e", "ladder", "--model", cell.model, "--lengths", cell.lengths),
        *("--candidates", str(cell.candidates), "--merge", str(cell.merge), "--batch", str(cell.batch)),
        *("--steps", str(cell.steps), "--rows", rows, "--rounds", str(options.rounds)),
        *("--repeats", str(options.repeats), *(("--auc", str(cell.auc_steps)) if cell.auc_steps else ())),
        *(part for setting in cell.settings for part in ("--set", setting)),
    ]
    return [f"## {cell.name}", "", f"`{shlex.join(command)}`", "", *table(cell, found), ""]


def main() -> None:
    parser = arguments()
    options = parser.parse_args()
    try:
        chosen(options.rows)
        cells = [*cells_of(options)] if options.command == "sweep" else [cell_of(options)]
        for cell in cells:
            cell.check()
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(1)  # as the ranks have, for the page
    lines = ["# The ladder: from a plain TorchRec job to dist_rec", "", *provenance_lines(), "", EXPLAINED, ""]
    for number, cell in enumerate(cells):
        print(f"cell {number + 1}/{len(cells)}: {cell.name}", file=sys.stderr, flush=True)
        if options.command == "compare":
            found = compare(cell, chosen(options.rows), options.rounds, tuple(options.commits))
            lines += [f"## {cell.name}", "", *comparison(found), ""]
        else:
            rows = rows_of(cell, options.rows) if options.command == "sweep" else options.rows
            lines += section(cell, rows, options)
        if options.out:
            options.out.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
